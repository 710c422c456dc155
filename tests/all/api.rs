//! The library's interface is small on purpose: what it is stands in `tests/goldens/api.txt`, and what it depends on here.
//! Each line says with which feature it comes; `operator` is there without any. What `conformance`, `measure` and `cli` add
//! is for the project's own checks, measurements and program: nobody else's interface.
//!
//! A change of the interface is meant where that file changes with it: `UPDATE_GOLDENS=1 cargo test --release --test all api::`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{Attribute, Fields, ImplItem, Item, Meta, Token, TraitItem, UseTree, Visibility};

/// Who uses the crate, with the features that they ask for, and the most names of types and functions that each adds.
const USES: [(&str, &[&str], usize); 3] =
    [("operator", &[], 50), ("engine", &["engine"], 35), ("text", &["engine", "text"], 30)];

/// What is public: its lines, and the paths of each item by where it is defined.
#[derive(Default)]
struct Interface {
    lines: BTreeSet<String>,
    paths: BTreeMap<String, BTreeSet<String>>,
}

/// The modules of the crate by their path, `gpu::device`, each with its items.
type Modules = BTreeMap<String, Vec<Item>>;

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_string() } else { format!("{path}::{name}") }
}

fn holds(condition: &Meta, features: &[&str]) -> bool {
    match condition {
        Meta::Path(path) => path.is_ident("unix"),
        Meta::NameValue(of) => {
            let value = words(&of.value);
            of.path.is_ident("feature") && features.contains(&value.trim_matches('"'))
        }
        Meta::List(list) => {
            let parser = Punctuated::<Meta, Token![,]>::parse_terminated;
            let parts = list.parse_args_with(parser).unwrap();
            let mut parts = parts.iter().map(|part| holds(part, features));
            match words(&list.path).as_str() {
                "any" => parts.any(|part| part),
                "not" => !parts.any(|part| part),
                _ => parts.all(|part| part),
            }
        }
    }
}

/// Whether something is there with these features, outside of tests.
fn is_there(attributes: &[Attribute], features: &[&str]) -> bool {
    let mut conditions = attributes.iter().filter(|attribute| attribute.path().is_ident("cfg"));
    conditions.all(|attribute| holds(&attribute.parse_args().unwrap(), features))
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

fn read(file: &Path, path: &str, features: &[&str], modules: &mut Modules) {
    let source = fs::read_to_string(file).unwrap();
    let mut items = syn::parse_file(&source).unwrap().items;
    items.retain(|item| is_there(attributes(item), features));
    let is_root = ["lib.rs", "mod.rs"].iter().any(|name| file.ends_with(name));
    let folder = if is_root { file.parent().unwrap().into() } else { file.with_extension("") };
    for item in &items {
        let Item::Mod(module) = item else { continue };
        if module.content.is_some() {
            continue;
        }
        let name = module.ident.to_string();
        let single = folder.join(format!("{name}.rs"));
        let file = if single.exists() { single } else { folder.join(&name).join("mod.rs") };
        read(&file, &join(path, &name), features, modules);
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

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn fields(path: &str, fields: &Fields, lines: &mut BTreeSet<String>) {
    for field in fields.iter().filter(|field| is_public(&field.vis)) {
        let Some(name) = &field.ident else { continue };
        lines.insert(format!("{path}.{name}: {}", words(&field.ty)));
    }
}

/// One item under its public path, with its methods wherever in its folder they are written.
fn describe(
    (modules, features): (&Modules, &[&str]),
    module: &str,
    item: &Item,
    path: &str,
    out: &mut Interface,
) {
    if let Some((name, _)) = name_of(item) {
        out.paths.entry(join(module, &name.to_string())).or_default().insert(path.to_string());
    }
    let lines = &mut out.lines;
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
            if item.trait_.is_some() || !is_of {
                continue;
            }
            for member in &item.items {
                match member {
                    ImplItem::Fn(function)
                        if is_public(&function.vis) && is_there(&function.attrs, features) =>
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

fn name_of(item: &Item) -> Option<(&syn::Ident, &Visibility)> {
    Some(match item {
        Item::Struct(item) => (&item.ident, &item.vis),
        Item::Enum(item) => (&item.ident, &item.vis),
        Item::Const(item) => (&item.ident, &item.vis),
        Item::Type(item) => (&item.ident, &item.vis),
        Item::Trait(item) => (&item.ident, &item.vis),
        Item::Fn(item) => (&item.sig.ident, &item.vis),
        _ => return None,
    })
}

// The module and the item that a name of a module stands for, through what is given on.
fn find<'m>(modules: &'m Modules, module: &str, name: &str) -> Option<(String, &'m Item)> {
    let items = modules.get(module)?;
    for item in items {
        if name_of(item).is_some_and(|(ident, _)| ident == name) {
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

fn interface((modules, features): (&Modules, &[&str]), module: &str, out: &mut Interface) {
    let of = (modules, features);
    for item in &modules[module] {
        match item {
            Item::Mod(inner) if is_public(&inner.vis) => {
                let path = join(module, &inner.ident.to_string());
                out.lines.insert(format!("mod {path}"));
                interface(of, &path, out);
            }
            Item::Use(given) if is_public(&given.vis) => {
                let mut names = Vec::new();
                leaves(&given.tree, String::new(), &mut names);
                for (from, there, here) in names {
                    let path = join(module, &here);
                    match find(modules, &resolve(module, &from), &there) {
                        Some((owner, item)) => describe(of, &owner, item, &path, out),
                        None => {
                            out.lines.insert(format!("use {path}"));
                            out.paths.insert(path.clone(), [path].into());
                        }
                    }
                }
            }
            item => {
                let Some((name, visibility)) = name_of(item) else { continue };
                if is_public(visibility) {
                    describe(of, module, item, &join(module, &name.to_string()), out);
                }
            }
        }
    }
}

/// The interface with these features, and macros, which belong to the crate wherever they are.
fn interface_with(features: &[&str]) -> Interface {
    let mut modules = Modules::new();
    read(&root().join("src/lib.rs"), "", features, &mut modules);
    let mut out = Interface::default();
    interface((&modules, features), "", &mut out);
    for item in modules.values().flatten() {
        let Item::Macro(item) = item else { continue };
        if item.attrs.iter().any(|attribute| attribute.path().is_ident("macro_export")) {
            let name = item.ident.as_ref().unwrap().to_string();
            out.lines.insert(format!("macro {name}"));
            out.paths.insert(format!("macro {name}"), [name].into());
        }
    }
    out
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_interface_is_the_one_that_was_recorded() {
    let mut found = BTreeSet::new();
    let mut before = BTreeSet::new();
    for (who, features, _) in USES {
        let lines = interface_with(features).lines;
        assert!(before.is_subset(&lines), "{who} lacks {:?}", before.difference(&lines));
        found.extend(lines.difference(&before).map(|line| format!("{who} {line}")));
        before = lines;
    }
    let golden = root().join("tests/goldens/api.txt");
    if std::env::var_os("UPDATE_GOLDENS").is_some() {
        let text: String = found.iter().map(|line| format!("{line}\n")).collect();
        fs::write(&golden, text).unwrap();
    }
    let recorded = fs::read_to_string(&golden).unwrap_or_default();
    let recorded: BTreeSet<String> = recorded.lines().map(str::to_string).collect();
    let gone: Vec<_> = recorded.difference(&found).collect();
    let new: Vec<_> = found.difference(&recorded).collect();
    assert!(gone.is_empty() && new.is_empty(), "gone: {gone:#?}\nnew: {new:#?}");
}

#[test]
fn who_uses_the_library_learns_tens_of_names() {
    let mut before = BTreeSet::new();
    for (who, features, most) in USES {
        let names: BTreeSet<String> =
            interface_with(features).paths.into_values().flatten().collect();
        let new: Vec<_> = names.difference(&before).collect();
        println!("{who}: {} names", new.len());
        assert!(new.len() <= most, "{who} has {} names: {new:#?}", new.len());
        before = names;
    }
}

#[test]
fn a_name_has_one_path() {
    let paths = interface_with(&["engine", "text"]).paths;
    let twice: Vec<_> = paths.iter().filter(|(_, paths)| paths.len() > 1).collect();
    assert!(twice.is_empty(), "{twice:#?}");
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
