//! The library's interface is small on purpose: what it is stands in `tests/goldens/api.txt`, and what it depends on here.
//!
//! A change of the interface is meant where that file changes with it: `UPDATE_GOLDENS=1 cargo test --release --test all api::`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use syn::spanned::Spanned;
use syn::{Attribute, Fields, ImplItem, Item, TraitItem, UseTree, Visibility};

/// The modules of the crate by their path, `gpu::device`, each with its items.
type Modules = BTreeMap<String, Vec<Item>>;

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_string() } else { format!("{path}::{name}") }
}

fn has(attributes: &[Attribute], words: &str) -> bool {
    let text = |a: &Attribute| a.span().source_text().unwrap_or_default();
    attributes.iter().any(|attribute| text(attribute).contains(words))
}

// What only exists with these features is for those who check and measure; tests are nobody's interface.
fn is_apart(attributes: &[Attribute]) -> bool {
    ["cfg(test)", "cfg(feature = \"conformance\")", "cfg(feature = \"measure\")", "doc(hidden)"]
        .iter()
        .any(|words| has(attributes, words))
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

fn read(file: &Path, path: &str, modules: &mut Modules) {
    let source = fs::read_to_string(file).unwrap();
    let items = syn::parse_file(&source).unwrap().items;
    let is_root = ["lib.rs", "mod.rs"].iter().any(|name| file.ends_with(name));
    let folder = if is_root { file.parent().unwrap().into() } else { file.with_extension("") };
    for item in &items {
        let Item::Mod(module) = item else { continue };
        if module.content.is_some() || has(&module.attrs, "cfg(test)") {
            continue;
        }
        let name = module.ident.to_string();
        let single = folder.join(format!("{name}.rs"));
        let file = if single.exists() { single } else { folder.join(&name).join("mod.rs") };
        read(&file, &join(path, &name), modules);
    }
    modules.insert(path.into(), items);
}

// The names of a `use`: path and name there, and the name here.
fn leaves(tree: &UseTree, path: String, out: &mut Vec<(String, String, String)>) {
    match tree {
        UseTree::Path(part) => leaves(&part.tree, join(&path, &part.ident.to_string()), out),
        UseTree::Name(name) => out.push((path, name.ident.to_string(), name.ident.to_string())),
        UseTree::Rename(name) => out.push((path, name.ident.to_string(), name.rename.to_string())),
        UseTree::Group(group) => {
            group.items.iter().for_each(|tree| leaves(tree, path.clone(), out));
        }
        UseTree::Glob(_) => panic!("{path}::* hides what it gives"),
    }
}

fn words(of: impl Spanned) -> String {
    let text = of.span().source_text().unwrap();
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with("//"));
    lines.collect::<Vec<_>>().join(" ")
}

fn fields(path: &str, fields: &Fields, lines: &mut BTreeSet<String>) {
    for field in fields.iter().filter(|field| is_public(&field.vis)) {
        let Some(name) = &field.ident else { continue };
        lines.insert(format!("{path}.{name}: {}", words(&field.ty)));
    }
}

/// One item under its public path, with its methods wherever in its folder they are written.
fn describe(
    modules: &Modules,
    module: &str,
    item: &Item,
    path: &str,
    lines: &mut BTreeSet<String>,
) {
    let name = match item {
        Item::Struct(item) => {
            lines.insert(format!("struct {path}"));
            fields(path, &item.fields, lines);
            &item.ident
        }
        Item::Enum(item) => {
            lines.insert(format!("enum {path}"));
            for variant in &item.variants {
                let attributes = variant.attrs.len();
                let text = words(variant);
                let text = if attributes > 0 { variant.ident.to_string() } else { text };
                lines.insert(format!("{path}::{text}"));
            }
            &item.ident
        }
        Item::Fn(item) => {
            lines.insert(format!("{path}: {}", words(&item.sig)));
            return;
        }
        Item::Const(item) => {
            lines.insert(format!("const {path}: {}", words(&item.ty)));
            return;
        }
        Item::Type(item) => {
            lines.insert(format!("type {path} = {}", words(&item.ty)));
            return;
        }
        Item::Trait(item) => {
            lines.insert(format!("trait {path}"));
            for member in &item.items {
                if let TraitItem::Fn(function) = member {
                    lines.insert(format!("{path}::{}", words(&function.sig)));
                }
            }
            return;
        }
        _ => return,
    };
    let floor = module.split("::").next().unwrap();
    for (_, items) in modules.iter().filter(|(path, _)| path.split("::").next() == Some(floor)) {
        for item in items {
            let Item::Impl(item) = item else { continue };
            let is_of = matches!(&*item.self_ty, syn::Type::Path(of)
                if of.path.segments.last().is_some_and(|last| last.ident == *name));
            if item.trait_.is_some() || !is_of || is_apart(&item.attrs) {
                continue;
            }
            for member in &item.items {
                match member {
                    ImplItem::Fn(function)
                        if is_public(&function.vis) && !is_apart(&function.attrs) =>
                    {
                        lines.insert(format!("{path}::{}", words(&function.sig)));
                    }
                    ImplItem::Const(constant) if is_public(&constant.vis) => {
                        let name = &constant.ident;
                        lines.insert(format!("{path}::{name}: {}", words(&constant.ty)));
                    }
                    _ => {}
                }
            }
        }
    }
}

fn name_of(item: &Item) -> Option<(&syn::Ident, &Visibility, &[Attribute])> {
    Some(match item {
        Item::Struct(item) => (&item.ident, &item.vis, &item.attrs),
        Item::Enum(item) => (&item.ident, &item.vis, &item.attrs),
        Item::Const(item) => (&item.ident, &item.vis, &item.attrs),
        Item::Type(item) => (&item.ident, &item.vis, &item.attrs),
        Item::Trait(item) => (&item.ident, &item.vis, &item.attrs),
        Item::Fn(item) => (&item.sig.ident, &item.vis, &item.attrs),
        _ => return None,
    })
}

// The module and the item that a name of a module stands for, through what is given on.
fn find<'m>(modules: &'m Modules, module: &str, name: &str) -> Option<(String, &'m Item)> {
    let items = modules.get(module)?;
    for item in items {
        if name_of(item).is_some_and(|(ident, _, _)| ident == name) {
            return Some((module.into(), item));
        }
    }
    for item in items {
        let Item::Use(given) = item else { continue };
        let mut names = Vec::new();
        leaves(&given.tree, String::new(), &mut names);
        for (from, there, here) in names {
            let owner = resolve(module, &from);
            // `use wgpu` names a crate, not what is here.
            if here == name && (owner.as_str(), there.as_str()) != (module, name) {
                return find(modules, &owner, &there);
            }
        }
    }
    None
}

fn resolve(module: &str, path: &str) -> String {
    if let Some(rest) = path.strip_prefix("crate") {
        return rest.trim_start_matches("::").into();
    }
    if let Some(rest) = path.strip_prefix("super") {
        let parent = module.rsplit_once("::").map_or("", |(parent, _)| parent);
        return resolve(parent, rest.trim_start_matches("::"));
    }
    match path.trim_start_matches("self::") {
        "" => module.into(),
        path => join(module, path),
    }
}

fn interface(modules: &Modules, module: &str, lines: &mut BTreeSet<String>) {
    for item in &modules[module] {
        match item {
            Item::Mod(inner) if is_public(&inner.vis) && !is_apart(&inner.attrs) => {
                let path = join(module, &inner.ident.to_string());
                lines.insert(format!("mod {path}"));
                interface(modules, &path, lines);
            }
            Item::Use(given) if is_public(&given.vis) && !is_apart(&given.attrs) => {
                let mut names = Vec::new();
                leaves(&given.tree, String::new(), &mut names);
                for (from, there, here) in names {
                    let path = join(module, &here);
                    match find(modules, &resolve(module, &from), &there) {
                        Some((owner, item)) => describe(modules, &owner, item, &path, lines),
                        None => drop(lines.insert(format!("use {path}"))),
                    }
                }
            }
            item => {
                let Some((name, visibility, attributes)) = name_of(item) else { continue };
                if is_public(visibility) && !is_apart(attributes) {
                    let path = join(module, &name.to_string());
                    describe(modules, module, item, &path, lines);
                }
            }
        }
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_interface_is_the_one_that_was_recorded() {
    let mut modules = Modules::new();
    read(&root().join("src/lib.rs"), "", &mut modules);
    let mut lines = BTreeSet::new();
    interface(&modules, "", &mut lines);
    let found: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let golden = root().join("tests/goldens/api.txt");
    if std::env::var_os("UPDATE_GOLDENS").is_some() {
        fs::write(&golden, &found).unwrap();
    }
    let recorded = fs::read_to_string(&golden).unwrap_or_default();
    let recorded: BTreeSet<String> = recorded.lines().map(str::to_string).collect();
    let gone: Vec<_> = recorded.difference(&lines).collect();
    let new: Vec<_> = lines.difference(&recorded).collect();
    assert!(gone.is_empty() && new.is_empty(), "gone: {gone:#?}\nnew: {new:#?}");
}

#[test]
fn who_embeds_the_operator_gets_no_tokenizer_no_memory_map_and_no_command_line() {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--no-default-features", "-e", "normal", "--prefix", "none"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8(tree.stdout).unwrap();
    let crates: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(crates.contains("wgpu") && crates.contains("asynctls"), "{crates:?}");
    let unwanted = [
        "clap",
        "env_logger",
        "hf-hub",
        "indicatif",
        "memmap2",
        "minijinja",
        "plotters",
        "pollster",
        "rayon",
        "rustyline",
        "safetensors",
        "tokenizers",
        "ureq",
    ];
    let found: Vec<_> = unwanted.iter().filter(|name| crates.contains(*name)).collect();
    assert!(found.is_empty(), "{found:?}");
}
