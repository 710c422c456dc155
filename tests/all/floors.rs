//! The house has floors: what a folder of `src/` may know of the others.

use std::fs;
use std::path::{Path, PathBuf};

// From the ground up, each with all that it may use. What a floor may use stands before it, so there is no circle.
const FLOORS: &[(&str, &[&str])] = &[
    ("units", &[]),
    ("utf8", &[]),
    ("subject", &[]),
    ("error", &["units", "subject"]),
    ("file", &["error"]),
    ("contract", &["error"]),
    ("formats", &["error", "subject"]),
    ("attention", &["contract", "error", "file", "formats", "subject", "utf8"]),
    ("memory", &["attention"]),
    ("gpu", &["contract", "error", "memory", "subject", "units"]),
    ("kernels", &["attention", "contract", "error", "formats", "gpu"]),
    ("reference", &["attention", "contract", "error", "formats"]),
    (
        "operator",
        &["attention", "contract", "error", "formats", "gpu", "kernels", "memory", "subject"],
    ),
    ("kv", &["attention", "contract", "error", "formats", "gpu", "kernels", "memory", "subject"]),
    ("model", &["attention", "error", "formats", "subject", "units", "utf8"]),
    (
        "engine",
        &[
            "attention",
            "contract",
            "error",
            "formats",
            "gpu",
            "kernels",
            "kv",
            "memory",
            "model",
            "subject",
            "units",
        ],
    ),
    ("generate", &["attention", "engine", "error", "kv", "model", "subject"]),
    ("serve", &["attention", "engine", "error", "generate", "model", "subject"]),
    ("server", &["attention", "engine", "error", "generate", "model", "serve", "subject"]),
    (
        "conformance",
        &[
            "attention",
            "contract",
            "error",
            "formats",
            "gpu",
            "kernels",
            "kv",
            "operator",
            "reference",
        ],
    ),
    ("eval", &["attention", "engine", "error", "file", "formats", "gpu", "model", "subject"]),
];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
            files.push(path);
        }
    }
    files
}

// The modules of this crate that a file names outside of comments and tests.
fn named(source: &str) -> Vec<String> {
    let code: String = source
        .split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap()
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect();
    let word = |text: &str| -> String {
        let text = text.trim_start();
        text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let mut names = Vec::new();
    for rest in code.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            Some(list) => names.extend(list.split('}').next().unwrap().split(',').map(word)),
            None => names.push(word(rest)),
        }
    }
    // Errors and macros are the crate's own names.
    let own = |name: &str| match name {
        "Error" | "Result" => "error".to_string(),
        "bindings" | "words" => "contract".to_string(),
        name => name.to_string(),
    };
    names.iter().map(|name| own(name)).filter(|name| !name.is_empty()).collect()
}

#[test]
fn no_arrow_runs_back_up() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut checked = 0;
    for (at, (floor, may)) in FLOORS.iter().enumerate() {
        let below = |name: &&str| FLOORS[..at].iter().any(|(lower, _)| lower == name);
        assert!(may.iter().all(below), "{floor} uses what stands above it");
        let single = src.join(format!("{floor}.rs"));
        let files = if single.exists() { vec![single] } else { sources(&src.join(floor)) };
        for file in files {
            checked += 1;
            for name in named(&fs::read_to_string(&file).unwrap()) {
                let allowed = name == *floor || may.contains(&name.as_str()) || name == "wgpu";
                assert!(allowed, "{} names {name}, which {floor} may not know", file.display());
            }
        }
    }
    assert!(checked > 150, "only {checked} files were found");
}

#[test]
fn every_folder_has_its_floor() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in fs::read_dir(src).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_string();
        let is_program = ["lib", "main", "cli"].contains(&name.as_str());
        assert!(
            is_program || FLOORS.iter().any(|(floor, _)| *floor == name),
            "{name} has no floor"
        );
    }
}

#[test]
fn names_are_found() {
    let source = "use crate::{Error, Result, kv};\n// crate::engine\nuse crate::model::x;\nwords! {}\n\
        fn f() -> crate::gpu::Gpu {}\n#[cfg(test)]\nmod tests {\n use crate::cli;\n}\n";
    assert_eq!(named(source), ["error", "error", "kv", "model", "gpu"]);
}
