//! `asynctls generate --session`: a conversation in a file.

use super::program::{Run, generate, generate_from, text};
use serde_json::Value;
use std::fs;
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
    assert!(third.err.contains("of KV cache in CPU memory as q8_0"), "{}", third.err);

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
    fs::copy(&path, &copy).unwrap();
    let second = more(&path);
    assert_ne!(first["tokens"], second["tokens"]);
    assert_eq!(second["tokens"], more(&copy)["tokens"]);
}

#[test]
fn files_that_are_no_session_or_damaged_are_refused_and_stay() {
    let (_folder, path) = place();
    fs::write(&path, "Dear diary").unwrap();
    refused(&ask(&path, "Hi", &[]), &["at byte 0", "a session begins with"]);
    assert_eq!(fs::read(&path).unwrap(), b"Dear diary");
    refused(&ask(Path::new("no/such/talk.kv"), "Hi", &[]), &["cannot write no/such/talk.kv"]);
    refused(&ask(path.parent().unwrap(), "Hi", &[]), &["a regular file is needed"]);

    // A saved answer, of whose file the end is missing, or a bit is wrong where it tells what is saved.
    fs::write(&path, "").unwrap();
    ask(&path, FIRST, &[]).fine();
    let whole = fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() - 100] ^= 1;
    for (bytes, parts) in [
        (&whole[..whole.len() - 100], ["bytes follow the header, but no commit", "delete it"]),
        (&flipped, ["the commit that ends here is damaged", "delete it"]),
    ] {
        fs::write(&path, bytes).unwrap();
        refused(&ask(&path, SECOND, &[]), &[&parts[..], &[text(&path)]].concat());
        assert!(fs::read(&path).unwrap() == bytes, "another file");
    }
}

#[test]
fn a_damaged_block_is_computed_again_and_nothing_is_removed() {
    let (_folder, path) = place();
    ask(&path, FIRST, &[]).fine();
    let mut bytes = fs::read(&path).unwrap();
    // Within the only block, which the commit at the end follows.
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let run = ask(&path, SECOND, &["--json"]).fine();
    let note = "block 0 is damaged: its checksum is ";
    let rest = "0 of 44 tokens are taken from there, and the rest is computed again";
    assert!(run.err.contains(note) && run.err.contains(rest), "{}", run.err);
    assert_eq!(run.json()["text"], "The capital of Italy is Rome.");
    assert_eq!(session(&run.json(), "loaded_tokens"), 0.0);
    assert!(fs::read(&path).unwrap().starts_with(&bytes));
    // And is whole now; a write that is cut off then costs what it would have added.
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, [&bytes[..], &[7; 1000]].concat()).unwrap();
    let run = ask(&path, "Hi", &["--json"]).fine();
    assert!(!run.err.contains("is damaged"), "{}", run.err);
    assert!(run.err.contains("ends in 1.0 kB of a write that was cut off"), "{}", run.err);
    assert!(run.err.contains("goes on from the 66 tokens before"), "{}", run.err);
    assert_eq!(session(&run.json(), "loaded_tokens"), 66.0);
    assert!(fs::read(&path).unwrap().starts_with(&bytes));
}

#[cfg(unix)]
#[test]
fn a_session_is_used_where_nothing_can_be_written() {
    use std::os::unix::fs::PermissionsExt;
    let (folder, path) = place();
    ask(&path, FIRST, &[]).fine();
    let before = (fs::read(&path).unwrap(), fs::metadata(&path).unwrap().modified().unwrap());
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(&path, 0o444);
    mode(folder.path(), 0o555);
    for _ in 0..2 {
        let report = ask(&path, SECOND, &["--session-read-only", "--json"]).fine().json();
        assert_eq!(report["text"], "The capital of Italy is Rome.");
        assert_eq!(session(&report, "loaded_tokens"), 44.0);
        assert_eq!(session(&report, "written_bytes"), 0.0);
    }
    // Who may do everything may write there too.
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    mode(folder.path(), 0o755);
    let after = (fs::read(&path).unwrap(), fs::metadata(&path).unwrap().modified().unwrap());
    assert!(before == after, "written");

    let absent = folder.path().join("none.kv");
    let run = ask(&absent, "Hi", &["--session-read-only"]);
    refused(&run, &["cannot read ", "none.kv"]);
    assert!(!absent.exists());
    let run = generate(&["--prompt", "Hi", "--session-read-only"]);
    assert_eq!((run.code, run.out.as_str()), (Some(2), ""), "{run:?}");
    assert!(run.err.contains("--session <FILE>"), "{run:?}");
}

// A conversation line by line, whose session is taken away and put back between questions.
#[cfg(unix)]
#[test]
fn a_session_that_was_deleted_or_replaced_is_told_and_saved_once_it_is_back() {
    use std::io::{BufRead, BufReader, Write};
    let (folder, path) = place();
    let elsewhere = folder.path().join("elsewhere.kv");
    for (is_back, other) in [(true, None), (false, None), (false, Some("another"))] {
        let _ = (fs::remove_file(&path), fs::remove_file(&elsewhere));
        let model = super::program::model();
        let more = ["-i", "--context", "128", "--max-tokens", "12", "--session", text(&path)];
        let arguments = [&["generate", "--model", &model], &more[..]].concat();
        let mut child = super::program::command(&arguments).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let errors = BufReader::new(child.stderr.take().unwrap());
        // What is said there comes in its time, or never.
        let (say, said) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            errors.lines().map_while(Result::ok).try_for_each(|l| say.send(l))
        });
        let next = || said.recv_timeout(std::time::Duration::from_secs(30));
        let mut answer = String::new();
        writeln!(input, "{FIRST}").unwrap();
        output.read_line(&mut answer).unwrap();
        writeln!(input, "{SECOND}").unwrap();
        output.read_line(&mut answer).unwrap();
        let both = "The capital of France is Paris.\nThe capital of Italy is Rome.\n";
        assert_eq!(answer, both);
        if let Some(other) = other {
            // Put over it, so that at no time nothing is there.
            let beside = folder.path().join("beside");
            fs::write(&beside, other).unwrap();
            fs::hard_link(&path, &elsewhere).unwrap();
            fs::rename(&beside, &path).unwrap();
        } else {
            fs::rename(&path, &elsewhere).unwrap();
        }
        writeln!(input, "{SECOND}").unwrap();
        output.read_line(&mut answer).unwrap();
        let mut error = String::new();
        while !error.contains("error: the session ") {
            error = next().expect("no error");
        }
        let is = if other.is_some() { "another file now" } else { "gone" };
        assert!(error.contains(&format!("{} is {is}, but ", path.display())), "{error}");
        if is_back {
            fs::rename(&elsewhere, &path).unwrap();
        }
        drop(input);
        let rest = said.iter().collect::<Vec<_>>().join("\n");
        let code = child.wait().unwrap().code();
        assert_eq!(code, Some(if is_back { 0 } else { 2 }), "{error}{rest}");
        assert!(is_back || rest.contains("error: the session "), "{rest}");
        assert!(rest.contains("the answer is not saved yet, but will be"), "{rest}");
        assert!(answer.lines().count() == 3 && answer.starts_with(both), "{answer}");
        if let Some(other) = other {
            assert_eq!(fs::read_to_string(&path).unwrap(), other);
        }
        if is_back {
            let report = ask(&path, "Hi", &["--json", "--session-read-only"]).fine().json();
            assert!(session(&report, "loaded_tokens") > 80.0, "{report}");
        }
    }
}

#[test]
fn one_run_at_a_time_has_a_session() {
    let (_folder, path) = place();
    let file = fs::File::create(&path).unwrap();
    file.lock().unwrap();
    refused(&ask(&path, "Hi", &[]), &["in use", "only one process at a time"]);
}

// A device on which nothing can be written.
#[cfg(target_os = "linux")]
#[test]
fn an_answer_is_shown_even_where_it_cannot_be_saved() {
    // A limit on the size of files, which a write then runs into as into a full disk.
    let (_folder, path) = place();
    let limited = |more: &[&str], input: &str| {
        let model = super::program::model();
        let mut limited = std::process::Command::new("sh");
        limited.arg("-c").arg("ulimit -f 100; exec \"$0\" \"$@\"");
        let program = super::program::command(&[]);
        limited.arg(program.get_program()).args(["generate", "--model", &model]);
        limited.args(["--session", text(&path), "--max-tokens", "12"]).args(more);
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => limited.env(name, value),
                None => limited.env_remove(name),
            };
        }
        use std::process::Stdio;
        limited.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let run = super::program::run_command(limited, input.as_bytes());
        assert_eq!(run.code, Some(2), "{run:?}");
        assert!(run.error().starts_with("cannot write "), "{}", run.error());
        // The session that could not be written is one that was only begun.
        assert!(fs::metadata(&path).unwrap().len() < 2000);
        run
    };
    let run = limited(&["--prompt", FIRST, "--json"], "");
    assert_eq!(run.json()["text"], "The capital of France is Paris.");
    // A conversation goes on, and ends with an error.
    let run = limited(&["-i", "--context", "128"], &format!("{FIRST}\n{SECOND}\n"));
    assert_eq!(run.out, "The capital of France is Paris.\nThe capital of Italy is Rome.\n");
    assert_eq!(run.err.matches("error: cannot write ").count(), 3, "{}", run.err);
}
