//! What each kernel asks of a device: its buffers, lanes and workgroup memory stand in `tests/goldens/limits.txt`, to be read over
//! where they change, and stay within what every device of the tier has.
//!
//! `UPDATE_GOLDENS=1 cargo test --release --test all limits::` writes the file anew.

use asynctls::gpu::{Access, Assembled, Tier, assemble};
use asynctls::kernels::{Variant, variants};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What a text asks for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Asks {
    storage: usize,
    uniforms: usize,
    lanes: u32,
    bytes: u32,
}

impl Asks {
    fn of(text: &Assembled) -> Self {
        let bindings = text.bindings();
        let is_uniform = |access: &Access| matches!(access, Access::Uniform(_));
        let uniforms = bindings.iter().filter(|binding| is_uniform(&binding.access)).count();
        Self {
            storage: bindings.len() - uniforms,
            uniforms,
            lanes: text.workgroup_size().iter().product(),
            bytes: text.workgroup_bytes(),
        }
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

// WebGPU's: https://www.w3.org/TR/webgpu/#limits. The matrix units' tier asks for more, and is for adapters that have it.
const CORE: Asks = Asks { storage: 8, uniforms: 12, lanes: 256, bytes: 16_384 };

#[test]
fn every_text_asks_for_what_its_tier_has_and_what_was_reviewed() {
    // Of each kernel, what variants ask for, and on which tiers.
    let mut table = BTreeMap::<(&str, Asks), BTreeSet<&str>>::new();
    let mut files = BTreeSet::new();
    for tier in Tier::all() {
        for Variant { spec, .. } in variants(tier, false) {
            let text = assemble(&spec).unwrap_or_else(|e| panic!("{spec:?}: {e}"));
            let asks = Asks::of(&text);
            let has = match tier.name {
                "cooperative" => Asks { lanes: 1024, bytes: 49_152, ..CORE },
                _ => CORE,
            };
            let fits = asks.storage <= has.storage
                && asks.uniforms <= has.uniforms
                && asks.lanes <= has.lanes
                && asks.bytes <= has.bytes;
            assert!(fits, "{} asks for more than the tier {} has: {spec:?}", spec.file, tier.name);
            table.entry((spec.file, asks)).or_default().insert(tier.name);
            let lines = 1..=text.text.lines().count() as u32;
            files.extend(lines.filter_map(|line| text.origin(line)).map(|(file, _)| file));
        }
    }
    let head = "# Kernel: storage buffers, uniforms, lanes and bytes of workgroup memory of its variants, and on which tiers.";
    let mut lines = vec![head.to_owned()];
    for ((file, Asks { storage, uniforms, lanes, bytes }), tiers) in table {
        let tiers = match tiers.len() == Tier::all().len() {
            true => "all".to_owned(),
            false => tiers.into_iter().collect::<Vec<_>>().join(", "),
        };
        lines.push(format!("{file:31} {storage} {uniforms} {lanes:4} {bytes:5}  {tiers}"));
    }
    let golden = root().join("tests/goldens/limits.txt");
    let found = lines.join("\n") + "\n";
    if std::env::var_os("UPDATE_GOLDENS").is_some() {
        fs::write(&golden, &found).unwrap();
    }
    let recorded = fs::read_to_string(&golden).unwrap_or_default();
    let (found, recorded): (BTreeSet<&str>, BTreeSet<&str>) =
        (found.lines().collect(), recorded.lines().collect());
    let gone: Vec<_> = recorded.difference(&found).collect();
    let new: Vec<_> = found.difference(&recorded).collect();
    assert!(gone.is_empty() && new.is_empty(), "gone: {gone:#?}\nnew: {new:#?}");
    // No file of a kernel is in none of them.
    let shaders = root().join("shaders");
    for folder in fs::read_dir(&shaders).unwrap() {
        for file in fs::read_dir(folder.unwrap().path()).unwrap() {
            let file = file.unwrap().path();
            let name = name_of(&shaders, &file);
            assert!(files.contains(&*name), "no variant has {name}");
        }
    }
}

fn name_of(shaders: &Path, file: &Path) -> String {
    file.strip_prefix(shaders).unwrap().to_string_lossy().replace('\\', "/")
}
