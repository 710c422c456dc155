//! Documents before a question, where texts come from, and conversations that fill the context.

use super::program::{Run, text};
use super::tiny::Tiny;
use serde_json::json;
use std::fs;

fn tiny() -> Tiny {
    Tiny::new(&json!({}))
}

fn refused(run: &Run, parts: &[&str]) {
    assert_eq!((run.code, run.out.as_str()), (Some(2), ""), "{run:?}");
    for part in parts {
        assert!(run.error().contains(part), "{part}: {}", run.error());
    }
}

// The tokens of a question that the tiny model reads, one for each byte and one for each mark.
fn tokens(question: &str) -> u64 {
    (format!("u:{question}#a:").len()) as u64
}

#[test]
fn documents_go_before_the_question() {
    let (model, folder) = (tiny(), tempfile::tempdir().unwrap());
    let path = folder.path().join("a.txt");
    fs::write(&path, "\u{FEFF}One.\n").unwrap();
    let more = ["--prompt", "Who?", "--max-tokens", "2", "--json"];
    let documents = ["--document", text(&path), "--document", "-"];
    let run = model.generate_from(&[&documents[..], &more].concat(), b"\xEF\xBB\xBFTwo\r\n").fine();
    let read = "<document name=\"a.txt\">\nOne.\n</document>\n\n\
                <document name=\"standard input\">\nTwo\n</document>\n\nWho?";
    assert_eq!(run.json()["prompt_tokens"], tokens(read));

    // A session has them, and does not read them twice.
    let kept = folder.path().join("talk.kv");
    let session = ["--session", text(&kept), "--document", text(&path)];
    let first = model.generate(&[&session[..], &more].concat()).fine();
    let again = model.generate(&[&session[..], &more].concat()).fine();
    assert!(
        again.err.contains("note: the conversation has this document already"),
        "{}",
        again.err
    );
    let (before, after) = (&first.json()["prompt_tokens"], &again.json()["prompt_tokens"]);
    assert!(after.as_u64().unwrap() < before.as_u64().unwrap() + 30, "{before} and {after}");

    // With -i they go before the first question.
    let input = format!("{}\n", "very ".repeat(20));
    let long = ["-i", "--context", "100", "--document", text(&path)];
    let run = model.generate_from(&long, input.as_bytes()).fine();
    let read =
        format!("<document name=\"a.txt\">\nOne.\n</document>\n\n{}", input.trim_end_matches('\n'));
    let message = format!("the conversation is {} tokens", tokens(&read));
    assert!(run.error().starts_with(&message), "{message}: {}", run.error());
}

#[test]
fn texts_are_utf8_with_or_without_a_mark() {
    let (model, folder) = (tiny(), tempfile::tempdir().unwrap());
    let path = folder.path().join("a.txt");
    let more = ["--max-tokens", "1", "--json"];
    let ask =
        |arguments: &[&str], input: &[u8]| model.generate_from(&[arguments, &more].concat(), input);
    fs::write(&path, "\u{FEFF}Hi").unwrap();
    for (arguments, input) in [
        (&["--prompt-file", text(&path)][..], &b""[..]),
        (&["--prompt-file", "-"], b"\xEF\xBB\xBFHi\n"),
        (&["-"], b"\xEF\xBB\xBFHi"),
        (&["-"], b"Hi"),
    ] {
        assert_eq!(
            ask(arguments, input).fine().json()["prompt_tokens"],
            tokens("Hi"),
            "{arguments:?}"
        );
    }
    let utf16: Vec<u8> = "\u{FEFF}Hi".encode_utf16().flat_map(u16::to_le_bytes).collect();
    fs::write(&path, &utf16).unwrap();
    refused(&ask(&["--prompt-file", text(&path)], b""), &["a.txt: at byte 0: the text is UTF-16"]);
    let document = ["--document", text(&path), "--prompt", "Who?"];
    refused(&ask(&document, b""), &["the text is UTF-16, but --document takes UTF-8"]);
    refused(&ask(&["-"], &utf16[2..]), &["standard input is no text", "UTF-16"]);
    // Lines of a conversation, of which the first may have the mark.
    let run = model.generate_from(&["-i", "--max-tokens", "1"], b"\xEF\xBB\xBF/bye\nHi\n").fine();
    assert_eq!(run.out, "", "{run:?}");
}

#[test]
fn documents_need_a_question_and_standard_input_is_read_once() {
    let model = tiny();
    refused(&model.generate(&["--document", "a.txt"]), &["the prompt is missing"]);
    refused(&model.generate(&["--document", "no/such", "--prompt", "x"]), &["cannot read no/such"]);
    refused(
        &model.generate(&["--document", "a", "--raw", "--prompt", "x"]),
        &["cannot be used with"],
    );
    let empty = model.generate(&["--document", "-", "--prompt", "x"]);
    refused(&empty, &["standard input is empty"]);
    for arguments in [
        &["--document", "-", "--document", "-", "--prompt", "x"][..],
        &["--document", "-", "-"],
        &["--document", "-", "--prompt-file", "-"],
        &["--document", "-", "-i"],
        &["--prompt-file", "-", "-i"],
    ] {
        refused(&model.generate(arguments), &["standard input is asked for twice"]);
    }
}

#[test]
fn a_full_conversation_says_what_helps_or_forgets_its_oldest_turns() {
    let (model, folder) = (tiny(), tempfile::tempdir().unwrap());
    let path = folder.path().join("a.txt");
    fs::write(&path, "One.").unwrap();
    let input: String = (0..6).map(|i| format!("{}\n", i.to_string().repeat(30))).collect();
    let common = ["-i", "--context", "200", "--max-tokens", "20", "--document", text(&path)];
    let stopped = model.generate_from(&common, input.as_bytes()).fine();
    assert!((1..6).contains(&stopped.out.matches('\n').count()), "{stopped:?}");
    for part in ["but the context holds 200: /clear", "--when-full drop-oldest", "--context N"] {
        assert!(stopped.error().contains(part), "{part}: {}", stopped.error());
    }
    let dropping = [&common[..], &["--when-full", "drop-oldest"]].concat();
    let dropped = model.generate_from(&dropping, input.as_bytes()).fine();
    assert!(dropped.out.matches('\n').count() >= 6, "{dropped:?}");
    let note = "note: the context of 200 tokens is full, so the ";
    assert!(dropped.err.contains(note) && dropped.err.contains(" forgotten"), "{}", dropped.err);

    // The same where a session goes on with one question at a time.
    let kept = folder.path().join("talk.kv");
    let ask = |more: &[&str]| {
        let question = "1".repeat(60);
        let common = ["--session", text(&kept), "--context", "200", "--max-tokens", "20"];
        model.generate(&[&common[..], &["--prompt", &question], more].concat())
    };
    ask(&[]).fine();
    ask(&[]).fine();
    refused(&ask(&[]), &["the prompt is ", "--context is 200 tokens: --when-full drop-oldest"]);
    let run = ask(&["--when-full", "drop-oldest"]).fine();
    assert!(run.err.contains("the context of 200 tokens is full"), "{}", run.err);
}
