//! Ctrl-C and other signals that end programs, and readers that go away.
#![cfg(unix)]

use super::program::{command, generate, model, text};
use crate::common::device::adapter;
use asynctls::wgpu;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

fn interrupt(child: &Child) {
    send(child, "INT");
}

fn send(child: &Child, signal: &str) {
    let to = child.id().to_string();
    let sent = Command::new("kill").args([&format!("-{signal}"), &to]).status().unwrap();
    assert!(sent.success());
}

// A generation that would take minutes.
fn long(more: &[&str]) -> Child {
    long_from("1 2 3 4 5 6 7 8", more)
}

fn long_from(prompt: &str, more: &[&str]) -> Child {
    long_command(prompt, more).spawn().expect("the program starts")
}

fn long_command(prompt: &str, more: &[&str]) -> Command {
    let model = model();
    let prompt = ["--raw", "--prompt", prompt, "--max-tokens", "3000"];
    let mut command = command(&[&["generate", "--model", &model], &prompt[..], more].concat());
    // As from a shell, and not as these tests were started.
    // SAFETY: setting what a signal does is allowed between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::signal(libc::SIGHUP, libc::SIG_DFL);
            Ok(())
        })
    };
    command
}

#[test]
fn an_interrupted_answer_is_kept_whichever_signal_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("talk.kv");
    let session = ["--session", text(&path), "--kv", "host"];
    let mut most = 0;
    for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let mut child = long(&session);
        let mut out = child.stdout.take().unwrap();
        let mut shown = vec![0; 4];
        out.read_exact(&mut shown).unwrap();
        send(&child, signal);
        out.read_to_end(&mut shown).unwrap();
        let shown = String::from_utf8(shown).unwrap();
        assert!(shown.ends_with('\n'), "{shown}");
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code));
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(err.lines().last().unwrap().starts_with("interrupted; prompt "), "{err}");
        // Its session holds it too.
        let more = ["--session-read-only", "--raw", "--prompt", "And so on", "--max-tokens", "1"];
        let report = generate(&[&session[..], &more, &["--json"]].concat()).fine().json();
        let loaded = report["session"]["loaded_tokens"].as_u64().unwrap();
        let prompt = report["prompt_tokens"].as_u64().unwrap();
        assert!(loaded > most + 10 && loaded < prompt, "{signal}: {report}");
        most = loaded;
    }
}

#[test]
fn a_prompt_ends_soon_after_it_is_asked_to_and_a_trace_without_steps_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let (book, output) = (folder.path().join("book"), folder.path().join("trace"));
    std::fs::write(&book, "1 2 3 4 5 6 7 8 ".repeat(600)).unwrap();
    let model = model();
    let trace = ["eval", "trace", "--model", &model, "--text", text(&book), "--length", "8000"];
    let more = ["--steps", "2", "--with", "keys", "--output", text(&output)];
    let child = command(&[&trace[..], &more].concat()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_secs(4));
    interrupt(&child);
    let asked = std::time::Instant::now();
    let ended = child.wait_with_output().unwrap();
    let taken = asked.elapsed();
    assert_eq!(ended.status.code(), Some(130), "{ended:?}");
    // A GPU may have read the prompt by then, and begun the trace.
    let is_cpu = adapter().info.device_type == wgpu::DeviceType::Cpu;
    assert!(!is_cpu || !output.exists());
    // Two seconds where nothing else runs; other tests may have the cores.
    assert!(taken.as_secs_f64() < 8.0, "{taken:?}");
}

// As with `nohup`.
#[test]
fn a_signal_that_was_ignored_stays_ignored() {
    let mut command = long_command("1 2 3 4 5 6 7 8", &[]);
    // SAFETY: setting what a signal does is allowed between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::signal(libc::SIGHUP, libc::SIG_IGN);
            Ok(())
        })
    };
    let mut child = command.spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0; 4]).unwrap();
    send(&child, "HUP");
    out.read_exact(&mut [0; 16]).unwrap();
    send(&child, "TERM");
    drop(out);
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

// The first of these is a terminal that is closed, which takes the output away and sends a signal.
#[test]
fn what_nobody_can_read_any_more_is_saved() {
    let folder = tempfile::tempdir().unwrap();
    for is_terminal in [true, false] {
        let path = folder.path().join(is_terminal.to_string());
        let session = ["--session", text(&path)];
        let mut command = long_command("1 2 3 4 5 6 7 8", &session);
        let mut reader = if is_terminal {
            let [ours, theirs] = terminal();
            command.stdout(theirs).stderr(Stdio::null());
            Some(File::from(ours))
        } else {
            None
        };
        command.stdin(Stdio::null());
        let mut child = command.spawn().unwrap();
        // Which holds the other end too.
        drop(command);
        let mut shown = [0; 4];
        match &mut reader {
            Some(reader) => reader.read_exact(&mut shown).unwrap(),
            None => child.stdout.take().unwrap().read_exact(&mut shown).unwrap(),
        }
        if is_terminal {
            send(&child, "HUP");
        }
        drop(reader);
        let code = child.wait().unwrap().code();
        assert_eq!(code, Some(if is_terminal { 129 } else { 0 }));
        let more = ["--raw", "--prompt", "And so on", "--max-tokens", "1", "--json"];
        let report = generate(&[&session[..], &more].concat()).fine().json();
        assert!(report["session"]["loaded_tokens"].as_u64().unwrap() > 10, "{report}");
    }
}

// Both ends of a new terminal.
fn terminal() -> [OwnedFd; 2] {
    let mut ends = [0; 2];
    let [ours, theirs] = &mut ends;
    let none = std::ptr::null_mut();
    // SAFETY: there is room for both ends, and nothing else is asked for.
    let made = unsafe { libc::openpty(ours, theirs, none, none.cast(), none.cast()) };
    assert_eq!(made, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: they were opened just now, and nobody else has them.
    ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) })
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

#[test]
fn an_interrupted_export_leaves_the_folder_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("bundle");
    let export = |more: &[&str]| {
        let all = ["conformance", "--export", text(&bundle)];
        command(&[&all, more].concat()).spawn().unwrap()
    };
    let files = || {
        let folders = [bundle.clone(), bundle.join("cases")];
        let entries = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap());
        let paths: BTreeSet<_> = entries.map(|entry| entry.unwrap().path()).collect();
        let read = |path: PathBuf| (std::fs::read(&path).unwrap_or_default(), path);
        paths.into_iter().map(read).collect::<Vec<_>>()
    };
    let ended = export(&["--filter", "stream/1-vec4"]).wait_with_output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    let before = files();
    // All cases take minutes.
    let child = export(&[]);
    while files() == before {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    interrupt(&child);
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130), "{ended:?}");
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(said.contains("interrupted after "), "{said}");
    assert!(files() == before, "{said}");
    assert!(before.iter().any(|(_, path)| path.ends_with("index.json")));
}
