//! `generate --batch`: a line of results for each line of prompts.

use super::program::{Run, text};
use super::tiny::Tiny;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

struct Files {
    model: Tiny,
    folder: tempfile::TempDir,
}

impl Files {
    fn new(lines: &[Value]) -> Self {
        let files = Self { model: Tiny::new(&json!({})), folder: tempfile::tempdir().unwrap() };
        let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
        fs::write(files.path("in"), lines).unwrap();
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn arguments<'a>(prompts: &'a Path, out: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
        [&["--batch", text(prompts), "--out", text(out), "--max-tokens", "8"], more].concat()
    }

    fn run(&self, more: &[&str]) -> Run {
        self.model.generate(&Self::arguments(&self.path("in"), &self.path("out"), more))
    }

    fn results(&self) -> Vec<Value> {
        let all = fs::read_to_string(self.path("out")).unwrap();
        let parse = |line| {
            let value = serde_json::from_str(line).unwrap();
            super::json::check_as("generate --batch --out", &value);
            value
        };
        all.lines().map(parse).collect()
    }
}

fn questions() -> Vec<Value> {
    let shared =
        "It was a dark and stormy night, and nobody was to be seen in the streets of the town. "
            .repeat(3);
    vec![
        json!({"id": "one", "prompt": "One?"}),
        json!({"id": 2, "prompt": format!("{shared}Who came?"), "max_tokens": 12}),
        json!({"prompt": format!("{shared}Why?")}),
        json!({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}, {"role": "user", "content": "Hm"}]}),
        json!({"id": "last", "prompt": "Two?", "max_tokens": 1}),
    ]
}

#[test]
fn each_line_has_the_answer_that_its_prompt_has_alone() {
    let files = Files::new(&questions());
    let run = files.run(&["--parallel", "3", "--block-size", "16", "--attention", "dense"]).fine();
    assert!(run.out.is_empty() && run.err.contains("5 answers in"), "{run:?}");
    let results = files.results();
    let places: Vec<_> = results.iter().map(|one| (&one["line"], &one["id"])).collect();
    let expected = [json!("one"), json!(2), Value::Null, Value::Null, json!("last")];
    for (i, place) in places.iter().enumerate() {
        assert_eq!(*place, (&json!(i + 1), &expected[i]));
    }
    for (question, result) in questions().iter().zip(&results) {
        let Some(prompt) = question["prompt"].as_str() else { continue };
        let most = question["max_tokens"].as_u64().unwrap_or(8).to_string();
        let alone = ["--prompt", prompt, "--max-tokens", &most, "--json", "--attention", "dense"];
        let alone = files.model.generate(&alone).fine().json();
        for field in ["text", "tokens", "finish", "prompt_tokens"] {
            assert_eq!(result[field], alone[field], "{field} of {question}");
        }
    }
    // The long beginning of two prompts was computed once.
    assert!(results[2]["reused_tokens"].as_u64().unwrap() >= 240, "{:?}", results[2]);
}

#[test]
fn a_run_goes_on_where_an_earlier_one_ended() {
    let files = Files::new(&questions());
    files.run(&[]).fine();
    let whole = fs::read_to_string(files.path("out")).unwrap();
    let texts = |files: &Files| -> Vec<Value> {
        files.results().into_iter().map(|one| one["text"].clone()).collect()
    };
    let expected = texts(&files);
    let two: usize = whole.lines().take(2).map(|line| line.len() + 1).sum();
    for kept in [0, two, two + 30] {
        fs::write(files.path("out"), &whole.as_bytes()[..kept]).unwrap();
        let run = files.run(&["--parallel", "2"]).fine();
        assert_eq!(run.err.contains("is half written"), kept == two + 30, "{run:?}");
        assert_eq!(run.err.contains("has results of 2 of 5 prompts"), kept > 0, "{run:?}");
        assert_eq!(texts(&files), expected);
    }
    // The first was the slowest.
    let (first, others) = whole.split_at(whole.find('\n').unwrap() + 1);
    fs::write(files.path("out"), "").unwrap();
    fs::write(files.path("out.early"), others).unwrap();
    let run = files.run(&["--parallel", "2"]).fine();
    assert!(run.err.contains("has results of 4 of 5 prompts") && run.err.contains("1 answers in"));
    assert!(!files.path("out.early").exists());
    assert_eq!(texts(&files), expected);
    // All is there: no model is loaded.
    let before = fs::read_to_string(files.path("out")).unwrap();
    let run = files.run(&[]).fine();
    assert!(!run.err.contains("GPU memory"), "{run:?}");
    assert_eq!(fs::read_to_string(files.path("out")).unwrap(), before);
    // What another prompt was answered is no result of this one.
    let mut other = questions();
    other[0]["prompt"] = json!("Two?");
    let other: String = other.iter().map(|line| format!("{line}\n")).collect();
    fs::write(files.path("in"), other).unwrap();
    fs::write(files.path("out"), first).unwrap();
    let run = files.run(&[]);
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(run.error().contains("line 1 of it is the result of another prompt"), "{run:?}");
    assert_eq!(fs::read_to_string(files.path("out")).unwrap(), first);
}

#[test]
fn a_prompt_that_fails_fails_alone() {
    let files = Files::new(&[
        json!({"id": "fine", "prompt": "One?"}),
        json!({"id": "long", "prompt": "x".repeat(5000)}),
        json!({"id": "hot", "prompt": "One?", "temperature": -1.0}),
        json!({"id": "none", "prompt": "One?", "max_tokens": 0}),
        json!({"id": "empty", "prompt": ""}),
        json!({"id": "silent", "messages": []}),
        json!({"id": "too", "prompt": "One?"}),
    ]);
    let run = files.run(&[]);
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(run.error().starts_with("5 of 7 prompts failed: "), "{run:?}");
    let results = files.results();
    assert_eq!(results[0]["text"], results[6]["text"]);
    for (result, problem) in results[1..6].iter().zip([
        "the prompt is 500",
        "the temperature is -1",
        "the most tokens of an answer is 0",
        "the prompt is empty",
        "the messages is none",
    ]) {
        assert!(result["error"].as_str().unwrap().starts_with(problem), "{result}");
    }
    // The lines are there, so they are not tried again.
    let again = files.run(&[]);
    assert_eq!(again.code, Some(2), "{again:?}");
    assert_eq!(files.results(), results);
}

#[test]
fn what_cannot_be_meant_is_refused_before_anything_is_written() {
    let files = Files::new(&[json!({"prompt": "a"}), json!({"prompt": "a", "max_token": 3})]);
    let run = files.run(&[]);
    assert_eq!(run.code, Some(2));
    assert!(run.error().starts_with("line 2 of ") && run.error().contains("max_token"), "{run:?}");
    assert!(!files.path("out").exists());
    let other = files.path("other");
    fs::write(&other, "{\"prompt\": \"a\"}\n").unwrap();
    // The prompts themselves are no place for results.
    let run = files.model.generate(&Files::arguments(&other, &other, &[]));
    assert_eq!(run.code, Some(2));
    assert!(run.error().contains("line 1 of it is no result"), "{run:?}");
    assert_eq!(fs::read_to_string(&other).unwrap(), "{\"prompt\": \"a\"}\n");
    for more in [["--prompt", "a"], ["--session", "a"], ["--context", "9"], ["--parallel", "0"]] {
        assert_eq!(files.run(&more).code, Some(2), "{more:?}");
    }
    let alone = files.model.generate(&["--batch", text(&other)]);
    assert_eq!(alone.code, Some(2), "{alone:?}");
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_leaves_whole_lines_that_the_next_goes_on_from() {
    use super::program::command;
    use std::process::Command;
    use std::time::Duration;

    let lines: Vec<Value> =
        (0..24).map(|i| json!({"id": i, "prompt": format!("{i}?"), "max_tokens": 60})).collect();
    let files = Files::new(&lines);
    let (prompts, out) = (files.path("in"), files.path("out"));
    let arguments = Files::arguments(&prompts, &out, &["--parallel", "2"]);
    let model = ["generate", "--model", text(files.model.path())];
    let child = command(&[&model, &arguments[..]].concat()).spawn().unwrap();
    let written = || fs::read(&out).is_ok_and(|bytes| bytes.contains(&b'\n'));
    while !written() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130), "{ended:?}");
    let some = files.results().len();
    assert!((1..24).contains(&some), "{some}");
    let early = fs::read_to_string(files.path("out.early")).unwrap_or_default();
    let some = some + early.matches('\n').count();
    let run = files.run(&[]).fine();
    assert!(run.err.contains(&format!("has results of {some} of 24 prompts")), "{run:?}");
    let ids: Vec<Value> = files.results().iter().map(|one| one["id"].clone()).collect();
    assert_eq!(ids, (0..24).map(Value::from).collect::<Vec<_>>());
}

#[test]
fn a_prefix_cache_serves_later_runs() {
    let files = Files::new(&questions());
    let cache = files.path("cache");
    let options = [
        "--parallel",
        "1",
        "--block-size",
        "16",
        "--attention",
        "dense",
        "--prefix-cache",
        text(&cache),
    ];
    files.run(&options).fine();
    let first = files.results();
    fs::remove_file(files.path("out")).unwrap();
    let run = files.run(&options).fine();
    for (first, again) in first.iter().zip(&files.results()) {
        assert_eq!((&again["text"], &again["tokens"]), (&first["text"], &first["tokens"]));
        let [tokens, reused] =
            ["prompt_tokens", "reused_tokens"].map(|name| again[name].as_u64().unwrap());
        assert!(reused >= (tokens - 1) / 16 * 16, "{again}");
    }
    assert!(run.err.contains("more there already"), "{run:?}");
    let refused = files.model.generate(&["--prompt", "One?", "--prefix-cache", text(&cache)]);
    assert!(refused.err.contains("use --batch, or --session for one conversation"), "{refused:?}");
    let refused = files.run(&["--prefix-cache", text(&cache), "--prefix-cache-size", "none"]);
    assert!(refused.err.contains("--prefix-cache-size is none"), "{refused:?}");
}
