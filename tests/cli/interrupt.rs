//! Ctrl-C, and readers that go away.
#![cfg(unix)]

use super::program::{command, generate, model, text};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command};

fn interrupt(child: &Child) {
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

// A generation that would take minutes.
fn long(more: &[&str]) -> Child {
    long_from("1 2 3 4 5 6 7 8", more)
}

fn long_from(prompt: &str, more: &[&str]) -> Child {
    let model = model();
    let prompt = ["--raw", "--prompt", prompt, "--max-tokens", "3000"];
    let arguments = [&["generate", "--model", &model], &prompt[..], more].concat();
    command(&arguments).spawn().expect("the program starts")
}

#[test]
fn an_interrupted_answer_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("talk.kv");
    let session = ["--session", text(&path), "--kv", "host"];
    let mut child = long(&session);
    let mut out = child.stdout.take().unwrap();
    let mut shown = vec![0; 4];
    out.read_exact(&mut shown).unwrap();
    interrupt(&child);
    out.read_to_end(&mut shown).unwrap();
    let shown = String::from_utf8(shown).unwrap();
    assert!(shown.starts_with(" 9") && shown.ends_with('\n'), "{shown}");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(err.lines().last().unwrap().starts_with("interrupted; prompt "), "{err}");
    // Its session holds it too.
    let more = ["--raw", "--prompt", "And so on", "--max-tokens", "1", "--json"];
    let report = generate(&[&session[..], &more].concat()).fine().json();
    let loaded = report["session"]["loaded_tokens"].as_u64().unwrap();
    let prompt = report["prompt_tokens"].as_u64().unwrap();
    assert!(loaded > 10 && loaded < prompt, "{report}");
}

#[test]
fn an_interrupted_prompt_ends_there_and_json_says_so() {
    // A prompt of half a minute and more on a software adapter; on fast ones the answer is interrupted.
    let prompt = "a ".repeat(2500);
    let mut child = long_from(&prompt, &["--json", "--stats"]);
    let mut err = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("loaded ") {
        line.clear();
        assert!(err.read_line(&mut line).unwrap() > 0, "the program ended");
    }
    std::thread::sleep(std::time::Duration::from_millis(300));
    interrupt(&child);
    let began = std::time::Instant::now();
    line.clear();
    err.read_to_string(&mut line).unwrap();
    // Who has to wait is told what for.
    let waited = began.elapsed().as_secs_f64();
    let is_told = line.contains("note: it ends after the piece of work that is running");
    assert!(is_told || waited < 2.0, "{waited} s: {line}");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["finish"], "interrupted");
    assert_eq!(report["prompt_tokens"], 2501);
    let tokens = report["tokens"].as_array().unwrap().len() as u64;
    let context = report["context_tokens"].as_u64().unwrap();
    assert!(context < 2501 && tokens == 0 || context == 2501 + tokens - 1, "{report}");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = long(&[]);
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0; 2]).unwrap();
    drop(out);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(!err.contains("panic") && !err.contains("prompt "), "{err}");
}
