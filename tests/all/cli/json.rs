//! Objects that `--json` prints are as `docs/json.md` describes them.

use super::program::run;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const PAGE: &str = include_str!("../../../docs/json.md");

/// The fields that the page lists, by command.
fn documented() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let quoted = |line: &'static str| line.split('`').nth(1).unwrap_or_default();
    let mut commands = BTreeMap::<_, BTreeSet<_>>::new();
    let mut command = "";
    for line in PAGE.lines() {
        if line.starts_with("## `") {
            command = quoted(line);
        } else if line.starts_with("| `") {
            commands.entry(command).or_default().insert(quoted(line));
        }
    }
    commands
}

fn fields(value: &Value, at: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                let field = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                fields(value, &field, found);
                found.insert(field);
            }
        }
        Value::Array(list) => {
            list.iter().for_each(|value| fields(value, &format!("{at}[]"), found))
        }
        _ => {}
    }
}

/// Checks an object of any command; its fields.
pub fn check(object: &Value) -> BTreeSet<String> {
    assert_eq!(object["schema"], 1, "{object}");
    let command = object["command"].as_str().unwrap_or_else(|| panic!("no command: {object}"));
    let mut found = check_as(command, object);
    found.remove("command");
    found.remove("schema");
    found
}

/// Checks an object against the part of the page with this title; its fields.
pub fn check_as(title: &str, object: &Value) -> BTreeSet<String> {
    let titles = documented();
    let known = titles.get(title).unwrap_or_else(|| panic!("{title} is not documented"));
    let mut found = BTreeSet::new();
    fields(object, "", &mut found);
    for field in &found {
        let is_any =
            |known: &&str| known.strip_suffix('*').is_some_and(|prefix| field.starts_with(prefix));
        let is_tag = ["command", "schema"].contains(&field.as_str());
        let is_known = is_tag || known.contains(field.as_str()) || known.iter().any(is_any);
        assert!(is_known, "{title}: {field} is not documented");
    }
    found
}

const ATTENTION: [&str; 12] = [
    "bench",
    "attention",
    "--model-shape",
    "tiny",
    "--lengths",
    "256",
    "--memory",
    "40M",
    "--samples",
    "3",
    "--json",
    "--scorer=codes",
];

/// Fields that the page has in the part with this title, and an object does not.
pub fn missing(title: &str, found: &BTreeSet<String>) -> Vec<&'static str> {
    documented()[title].iter().copied().filter(|field| !found.contains(*field)).collect()
}

/// Names of limits, and what a case has that failed.
const WORST: [&str; 9] = [
    "adapters[].about.limits.*",
    "adapters[].rows[].worst.part",
    "adapters[].rows[].worst.index",
    "adapters[].rows[].worst.expected",
    "adapters[].rows[].worst.actual",
    "adapters[].rows[].worst.tolerance",
    "adapters[].rows[].worst.derivation",
    "adapters[].rows[].worst.wrong",
    "adapters[].rows[].worst.of",
];

#[test]
fn what_is_documented_is_there() {
    let tiny = "tests/goldens/tiny/llama/model";
    let replay = ["--model-shape", "tiny", "--block-size", "16", "--tokens", "64", "--json"];
    let replay = [&["bench", "offload"], &replay[..]].concat();
    let short = ["--context", "512", "--blocks", "4", "--misses", "10%", "--steps", "2"];
    for (arguments, optional) in [
        (vec!["adapters", "--json"], &[][..]),
        (vec!["inspect", tiny, "--json"], &["shapes.*"]),
        (vec!["logits", "--model", tiny, "--ids", "1,2", "--json"], &[]),
        ([&replay[..], &short].concat(), &[]),
        (ATTENTION.to_vec(), &[]),
        (vec!["conformance", "--filter", "stream/1-vec4", "--json"], &WORST),
    ] {
        let object = run(&arguments).fine().json();
        let found = check(&object);
        let command = object["command"].as_str().unwrap();
        for field in &documented()[command] {
            let is_there = found.contains(*field) || optional.contains(field);
            assert!(is_there, "{command}: {field} is documented and not there");
        }
    }
}
