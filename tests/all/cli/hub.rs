//! `--hf`: models from a hub, through the cache.

use super::hub_server::{Fault, Hub, REPOSITORY, files};
use super::program::{Run, command, run, run_command};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/tiny/qwen3")
}

/// A cache, and the hub that fills it.
struct Setup {
    hub: Hub,
    home: TempDir,
}

impl Setup {
    fn new(files: BTreeMap<String, Vec<u8>>, fault: Fault) -> Self {
        Self { hub: Hub::serve(files, fault), home: tempfile::tempdir().unwrap() }
    }

    fn of_folder(fault: Fault) -> Self {
        Self::new(files(&tiny().join("model")), fault)
    }

    fn inspect_at(&self, endpoint: &str, name: &str, environment: &[(&str, &str)]) -> Run {
        let mut command = command(&["inspect", "--json", "--hf", name]);
        for proxy in ["http_proxy", "https_proxy", "all_proxy"] {
            command.env_remove(proxy).env_remove(proxy.to_uppercase());
        }
        command.env_remove("HF_TOKEN").env_remove("HF_HUB_OFFLINE");
        command.env("HF_HOME", self.home.path()).env("HF_ENDPOINT", endpoint);
        command.envs(environment.iter().copied());
        run_command(command, b"")
    }

    fn inspect(&self, name: &str) -> Run {
        self.inspect_at(&self.hub.endpoint, name, &[])
    }

    fn refused(&self, name: &str, parts: &[&str]) {
        let run = self.inspect(name);
        assert_eq!((run.code, run.out.as_str()), (Some(2), ""), "{run:?}");
        for part in parts {
            assert!(run.error().contains(part), "{part}: {}", run.error());
        }
    }
}

/// What is told of a model, wherever it lies.
fn told(run: Run) -> Value {
    let mut report = run.fine().json();
    assert!(report["kv_bytes_a_token"].is_u64(), "{report}");
    report["path"].take();
    // There is no tokenizer, and the path of what is missing says so.
    let problem = report["problem"].take();
    assert_eq!(problem, report["tokenizer"]["problem"].take());
    report
}

fn local() -> Value {
    told(run(&["inspect", "--json", tiny().join("model").to_str().unwrap()]))
}

#[test]
fn a_folder_is_downloaded_once_and_then_needs_no_hub() {
    let setup = Setup::of_folder(Fault::None);
    assert_eq!(told(setup.inspect(REPOSITORY)), local());
    // Three shards, the index and two configurations; not what no model needs.
    assert_eq!(setup.hub.downloads(), 6);
    let again = setup.inspect(REPOSITORY);
    assert!(!again.err.contains("cache"), "{again:?}");
    assert_eq!(told(again), local());
    assert_eq!(setup.hub.downloads(), 0);

    let nobody = "http://127.0.0.1:9";
    let without = setup.inspect_at(nobody, REPOSITORY, &[]);
    assert!(without.err.contains("tiny/model is read from the cache"), "{without:?}");
    assert_eq!(told(without), local());
    for name in [REPOSITORY, &format!("{REPOSITORY}@{}", "a".repeat(40))] {
        let offline = setup.inspect_at(nobody, name, &[("HF_HUB_OFFLINE", "1")]);
        assert!(!offline.err.contains("is read from the cache"), "{offline:?}");
        assert_eq!(told(offline), local());
    }
    let other = setup.inspect_at(nobody, "tiny/other", &[]);
    assert!(other.error().contains("http://127.0.0.1:9/tiny/other"), "{other:?}");
}

#[test]
fn a_new_commit_brings_only_what_changed() {
    let setup = Setup::of_folder(Fault::None);
    told(setup.inspect(REPOSITORY));
    setup.hub.downloads();
    {
        let mut state = setup.hub.state();
        state.commit = "b".repeat(40);
        let config = state.files.get_mut("config.json").unwrap();
        let text = String::from_utf8(config.clone()).unwrap();
        *config = text.replace("2048", "1024").into_bytes();
    }
    let new = told(setup.inspect(REPOSITORY));
    assert_eq!((&new["context_length"], setup.hub.downloads()), (&1024.into(), 1));
    let old = format!("{REPOSITORY}@{}", "a".repeat(40));
    let offline = setup.inspect_at(&setup.hub.endpoint, &old, &[("HF_HUB_OFFLINE", "true")]);
    assert_eq!(told(offline), local());
}

#[test]
fn interrupted_downloads_go_on_where_they_stopped() {
    let setup = Setup::of_folder(Fault::Interrupted);
    assert_eq!(told(setup.inspect(REPOSITORY)), local());
    let state = setup.hub.state();
    let snapshot = format!("hub/models--tiny--model/snapshots/{}", state.commit);
    for (name, content) in &state.files {
        let path = setup.home.path().join(&snapshot).join(name);
        assert_eq!(&std::fs::read(path).unwrap(), content, "{name}");
        let rest = format!("/{name} {}-", content.len() / 2);
        assert!(state.log.iter().any(|line| line.ends_with(&rest)), "{:?}", state.log);
    }
}

#[test]
fn what_arrives_with_another_length_is_not_kept() {
    let setup = Setup::of_folder(Fault::IgnoresRanges);
    setup.refused(REPOSITORY, &["config.json brought ", "699 were announced; try again"]);
    setup.hub.state().fault = Fault::None;
    assert_eq!(told(setup.inspect(REPOSITORY)), local());
}

#[test]
fn what_cannot_be_downloaded_is_named() {
    let setup = Setup::of_folder(Fault::Missing);
    let ways = ["check the name and the connection", "HF_TOKEN", "a local path with --model"];
    setup.refused(
        REPOSITORY,
        &[&["--hf is tiny/model, but http://", "/config.json cannot be read: ", "404"], &ways[..]]
            .concat(),
    );
    setup.refused("tiny/other", &[&["--hf is tiny/other", "404"], &ways[..]].concat());
    setup.refused("tiny/model@v2", &[&["--hf is tiny/model@v2", "404"], &ways[..]].concat());
    setup.hub.state().fault = Fault::Silent;
    setup.refused(REPOSITORY, &[&["/config.json cannot be read: "], &ways[..]].concat());
    let offline = setup.inspect_at(&setup.hub.endpoint, REPOSITORY, &[("HF_HUB_OFFLINE", "1")]);
    assert!(offline.error().contains("HF_HUB_OFFLINE is set"), "{offline:?}");
    setup.hub.state().commit = "../../elsewhere".into();
    setup.refused(REPOSITORY, &["the hub's answer names no commit"]);
}

#[test]
fn gguf_files_are_named_one_by_one() {
    let content = std::fs::read(tiny().join("model.gguf")).unwrap();
    let names = ["b-Q4_0.gguf", "a/big-BF16.gguf", "README.md"];
    let files = names.iter().map(|name| ((*name).to_owned(), content.clone())).collect();
    let setup = Setup::new(files, Fault::None);
    setup.refused(
        REPOSITORY,
        &["no config.json", "as --hf tiny/model:FILE: a/big-BF16.gguf, b-Q4_0.gguf"],
    );
    setup.refused("tiny/model:c.gguf", &["has no file c.gguf", "a/big-BF16.gguf"]);
    assert_eq!(setup.hub.downloads(), 0);
    let found = told(setup.inspect("tiny/model:a/big-BF16.gguf"));
    assert_eq!((&found["architecture"], setup.hub.downloads()), (&"qwen3".into(), 1));
}

#[test]
fn names_are_checked_before_anything_is_asked() {
    let setup = Setup::of_folder(Fault::None);
    for name in ["model", "../model", "a/b/c", "tiny/model:../x.gguf", "tiny/model@"] {
        setup.refused(name, &["--hf", name]);
    }
    assert!(setup.hub.state().log.is_empty());
    let both = run(&["logits", "--hf", REPOSITORY, "--model", "x", "--ids", "1"]);
    assert!(both.error().contains("cannot be used with"), "{both:?}");
    let neither = run(&["inspect"]);
    assert_eq!(neither.code, Some(2), "{neither:?}");
}
