//! `asynctls generate -i` on a terminal, as people type and paste there.

use super::program::text;
use super::tiny::Tiny;
use nix::sys::termios::{LocalFlags, tcgetattr};
use pty_process::blocking::{Command, Pty, open};
use serde_json::json;
use std::io::{Read, Write};
use std::process::Child;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

struct Terminal {
    pty: Arc<Pty>,
    child: Child,
    seen: Arc<Mutex<String>>,
    /// How much of it was looked at.
    at: usize,
    _model: Tiny,
}

impl Terminal {
    fn start(arguments: &[&str]) -> Self {
        let model = Tiny::new(&json!({}));
        let (pty, pts) = open().unwrap();
        pty.resize(pty_process::Size::new(24, 80)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_asynctls"))
            .args(["generate", "--model", text(model.path()), "-i"])
            .args(arguments)
            .env_remove("RUST_LOG")
            .env_remove("ASYNCTLS_DISABLE")
            .env("TERM", "xterm");
        if std::env::var_os("ASYNCTLS_ADAPTER").is_none() {
            command = command.env("ASYNCTLS_ADAPTER", "vulkan:llvmpipe");
        }
        let child = command.spawn(pts).unwrap();
        let (pty, seen) = (Arc::new(pty), Arc::new(Mutex::new(String::new())));
        let (from, to) = (pty.clone(), seen.clone());
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // The end of a terminal is an error.
            while let Ok(count) = (&*from).read(&mut bytes) {
                to.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        let mut terminal = Self { pty, child, seen, at: 0, _model: model };
        terminal.wait_for("> ");
        terminal
    }

    fn keys(&self, keys: &str) {
        (&*self.pty).write_all(keys.as_bytes()).unwrap();
    }

    fn line(&self, line: &str) {
        self.keys(&format!("{line}\r"));
    }

    // What is shown up to this text, after what was waited for before.
    fn wait_for(&mut self, text: &str) -> String {
        let began = Instant::now();
        loop {
            let seen = self.seen.lock().unwrap().clone();
            if let Some(at) = seen[self.at..].find(text) {
                let shown = seen[self.at..self.at + at].to_owned();
                self.at += at + text.len();
                return shown;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "no {text:?} in {seen:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn code(&mut self) -> Option<i32> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(began.elapsed() < Duration::from_secs(60), "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}

#[test]
fn a_long_paste_is_one_question_with_its_end() {
    let mut terminal = Terminal::start(&["--context", "128", "--max-tokens", "4"]);
    // The tiny model has a token for each byte, so that the refusal counts what arrived.
    let pasted = "All of it.\n".repeat(910);
    terminal.keys(&format!("\x1b[200~{pasted}\x1b[201~What is this?\r"));
    let whole = pasted.len() + "What is this?".len() + "u:#a:".len();
    terminal.wait_for(&format!("the conversation is {whole} tokens"));
    // A line longer than a terminal's own buffer, typed.
    terminal.wait_for("> ");
    terminal.line(&"x".repeat(5000));
    terminal.wait_for("the conversation is 5005 tokens");
    terminal.wait_for("> ");
    // What was asked can be edited and asked again.
    terminal.line("ab");
    terminal.wait_for("> ");
    terminal.keys("\x1b[A");
    terminal.wait_for("ab");
    terminal.keys("\x7fc\r");
    terminal.wait_for("> ");
    terminal.line("/foo");
    terminal.wait_for("/foo is no command");
    terminal.wait_for("> ");
    terminal.line("/help");
    for part in ["/help", "/clear", "/save [FILE]", "/stats", "/bye"] {
        terminal.wait_for(part);
    }
    terminal.line("/bye");
    terminal.wait_for("prompt ");
    assert_eq!(terminal.code(), Some(0));
}

#[test]
fn what_is_pasted_while_an_answer_is_made_arrives_whole() {
    let mut terminal = Terminal::start(&["--context", "1000", "--max-tokens", "600"]);
    terminal.line("Hi");
    terminal.wait_for("\n");
    let pasted = "All of it.\n".repeat(910);
    terminal.keys(&format!("\x1b[200~{pasted}\x1b[201~What is this?\r"));
    terminal.wait_for("the conversation is ");
    let tokens: usize = terminal.wait_for(" tokens").parse().unwrap();
    assert!((10_000..13_000).contains(&tokens), "{tokens} with the first answer");
    terminal.wait_for("> ");
    terminal.line("/bye");
    assert_eq!(terminal.code(), Some(0));
    assert_eq!(terminal.seen.lock().unwrap().matches("error: the ").count(), 1);
}

#[test]
fn the_terminal_is_left_as_it_was_found() {
    let mut terminal = Terminal::start(&["--max-tokens", "2"]);
    let modes = |terminal: &Terminal| tcgetattr(&*terminal.pty).unwrap().local_flags;
    assert!(!modes(&terminal).contains(LocalFlags::ICANON));
    // A signal ends the program from within the editor.
    let id = terminal.child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    assert_eq!(terminal.code(), Some(130));
    assert!(modes(&terminal).contains(LocalFlags::ICANON | LocalFlags::ECHO));
    terminal.wait_for("\u{1b}[?2004l");
}

#[test]
fn ctrl_c_ends_the_answer_and_where_nothing_is_typed_the_conversation() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("talk.kv");
    let options = ["--context", "2000", "--max-tokens", "1900"];
    let mut terminal = Terminal::start(&options);
    terminal.line(&format!("/save {}", text(&path)));
    terminal.wait_for("the conversation is in ");
    terminal.wait_for("> ");
    terminal.line("Hi");
    // The echo of the question, and the beginning of an answer.
    terminal.wait_for("\n");
    std::thread::sleep(Duration::from_millis(250));
    terminal.keys("\x03");
    terminal.wait_for("> ");
    terminal.line("/stats");
    let stats = terminal.wait_for("; context ");
    assert!(stats.contains("interrupted; prompt 7 tokens"), "{stats}");
    terminal.wait_for("> ");
    // What is typed goes first.
    terminal.keys("half a question\x03");
    terminal.wait_for("> ");
    terminal.line("/stats");
    terminal.wait_for("interrupted; prompt 7 tokens");
    terminal.wait_for("> ");
    terminal.keys("\x03");
    assert_eq!(terminal.code(), Some(130));
    assert!(std::fs::metadata(&path).unwrap().len() > 1000, "the answer is saved");
}

#[test]
fn ctrl_d_leaves() {
    let mut terminal = Terminal::start(&[]);
    terminal.keys("\x04");
    assert_eq!(terminal.code(), Some(0));
}
