//! `asynctls generate --session`: a conversation in a file.

use super::program::{Run, generate, generate_from, text};
use serde_json::Value;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const FIRST: &str = "What is the capital of France?";
const SECOND: &str = "And of Italy?";

fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("talk.kv");
    (folder, path)
}

fn ask(path: &Path, question: &str, more: &[&str]) -> Run {
    let common = ["--session", text(path), "--prompt", question, "--max-tokens", "12"];
    generate(&[&common[..], more].concat())
}

fn refused(run: &Run, parts: &[&str]) {
    assert_eq!((run.code, run.out.as_str()), (Some(2), ""), "{run:?}");
    for part in parts {
        assert!(run.error().contains(part), "{part}: {}", run.error());
    }
}

fn session(report: &Value, name: &str) -> f64 {
    report["session"][name].as_f64().unwrap_or_else(|| panic!("{name}: {report}"))
}

#[test]
fn a_conversation_goes_on_in_the_next_run() {
    let (_folder, path) = place();
    let first = ask(&path, FIRST, &["--json"]).fine().json();
    assert_eq!(first["text"], "The capital of France is Paris.");
    assert_eq!(session(&first, "loaded_tokens"), 0.0);
    assert!(session(&first, "written_bytes") > 1e6, "{first}");
    // As in one run with -i; 15 tokens are new, as there, and the rest is not computed again.
    let second = ask(&path, SECOND, &["--json"]).fine();
    let report = second.json();
    assert_eq!(report["text"], "The capital of Italy is Rome.");
    assert_eq!(session(&report, "loaded_tokens"), 44.0);
    assert!(second.err.lines().last().unwrap().starts_with("prompt 15 tokens"), "{}", second.err);
    // Line by line it goes on too, wherever its blocks are kept now.
    let more = ["-i", "--context", "128", "--kv", "host", "--kv-type", "q8_0", "--stats"];
    let third = generate_from(&[&["--session", text(&path)], &more[..]].concat(), b"Hi\n").fine();
    assert!(third.err.contains("session: 66 tokens loaded in "), "{}", third.err);
    assert!(third.err.contains("of keys and values in CPU memory as q8_0"), "{}", third.err);

    refused(
        &ask(&path, "Hi", &["--block-size", "32"]),
        &["the block size of the session", "is 64, but", "32"],
    );
    refused(&ask(&path, "Hi", &["--attention", "dense"]), &["the index of the session", "none"]);
    refused(&ask(&path, "Hi", &["--raw"]), &["--raw is given", "was begun otherwise"]);
    refused(
        &ask(&path, "Hi", &["--system", "Sing."]),
        &["--system is \"Sing.\"", "did not begin with"],
    );
}

#[test]
fn draws_go_on_where_they_were() {
    let sampling = ["--raw", "--temperature", "1.5", "--seed", "7", "--json"];
    let more = |path: &Path| ask(path, "It was", &sampling).fine().json();
    let (_folder, path) = place();
    let first = more(&path);
    let copy = path.with_extension("copy");
    std::fs::copy(&path, &copy).unwrap();
    let second = more(&path);
    assert_ne!(first["tokens"], second["tokens"]);
    assert_eq!(second["tokens"], more(&copy)["tokens"]);
}

#[test]
fn files_that_are_no_session_or_damaged_are_refused_and_stay() {
    let (_folder, path) = place();
    std::fs::write(&path, "Dear diary").unwrap();
    refused(&ask(&path, "Hi", &[]), &["at byte 0", "a session begins with"]);
    assert_eq!(std::fs::read(&path).unwrap(), b"Dear diary");
    refused(&ask(Path::new("no/such/talk.kv"), "Hi", &[]), &["cannot write no/such/talk.kv"]);
    refused(&ask(path.parent().unwrap(), "Hi", &[]), &["a regular file is needed"]);

    std::fs::write(&path, "").unwrap();
    ask(&path, FIRST, &[]).fine();
    let whole = std::fs::read(&path).unwrap();
    // Within the only block, which the commit at the end follows.
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    std::fs::write(&path, flipped).unwrap();
    refused(&ask(&path, SECOND, &[]), &["block 0 is damaged"]);

    // A write that was cut off, here of the first answer: nothing is left to go on with.
    std::fs::write(&path, &whole[..whole.len() - 20]).unwrap();
    let run = ask(&path, FIRST, &["--json"]).fine();
    assert!(run.err.contains("of a write that was cut off"), "{}", run.err);
    assert_eq!(session(&run.json(), "loaded_tokens"), 0.0);
    assert_eq!(std::fs::read(&path).unwrap().len(), whole.len());
}

#[test]
fn one_run_at_a_time_has_a_session() {
    let (_folder, path) = place();
    let file = std::fs::File::create(&path).unwrap();
    file.lock().unwrap();
    refused(&ask(&path, "Hi", &[]), &["in use", "only one process at a time"]);
}

// A device on which nothing can be written.
#[cfg(target_os = "linux")]
#[test]
fn an_answer_is_shown_even_where_it_cannot_be_saved() {
    // A limit on the size of files, which a write then runs into as into a full disk.
    let (_folder, path) = place();
    let model = super::program::model();
    let mut limited = std::process::Command::new("sh");
    limited.arg("-c").arg("trap '' XFSZ; ulimit -f 100; exec \"$0\" \"$@\"");
    let program = super::program::command(&[]);
    limited.arg(program.get_program()).args(["generate", "--model", &model, "--json"]);
    limited.args(["--session", text(&path), "--prompt", FIRST, "--max-tokens", "12"]);
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    use std::process::Stdio;
    limited.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let run = super::program::run_command(limited, b"");
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(run.error().starts_with("cannot write "), "{}", run.error());
    assert_eq!(run.json()["text"], "The capital of France is Paris.");
    // The session that could not be written is one that was only begun.
    assert!(std::fs::metadata(&path).unwrap().len() < 2000);
}
