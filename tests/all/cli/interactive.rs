//! `asynctls generate -i`: one session, several questions.

use super::program::{generate_from, text};
use super::tiny::Tiny;

#[test]
fn a_conversation_goes_on_in_one_session() {
    let run = generate_from(
        &["-i", "--context", "128", "--max-tokens", "12"],
        b"What is the capital of France?\n\nAnd of Italy?\n",
    )
    .fine();
    assert_eq!(run.out, "The capital of France is Paris.\nThe capital of Italy is Rome.\n");
    // 37 tokens of the first prompt; the second one brings the end of the first answer and its question, no more.
    let last = run.err.lines().last().unwrap();
    assert!(last.contains("prompt 52 tokens"), "{last}");
}

#[test]
fn what_is_too_long_is_refused_and_asking_goes_on() {
    let long = "very ".repeat(100);
    let input = format!("Is it {long} hot?\nWhat is the capital of France?\n");
    let run =
        generate_from(&["-i", "--context", "64", "--max-tokens", "12"], input.as_bytes()).fine();
    assert!(run.error().starts_with("the conversation is 1"), "{}", run.error());
    for part in
        ["tokens, but the context holds 64: ", "/clear", "--when-full drop-oldest", "--context"]
    {
        assert!(run.error().contains(part), "{part}: {}", run.error());
    }
    assert_eq!(run.out, "The capital of France is Paris.\n");
}

#[test]
fn commands_are_obeyed_and_not_sent_to_the_model() {
    let model = Tiny::new(&serde_json::json!({}));
    let folder = tempfile::tempdir().unwrap();
    let (kept, other) = (folder.path().join("talk.kv"), folder.path().join("other.kv"));
    let ask = |lines: &[&str]| {
        let common = ["-i", "--max-tokens", "2", "--context", "200"];
        model.generate_from(&common, lines.join("\n").as_bytes()).fine()
    };
    let (save, elsewhere) = (format!("/save {}", text(&kept)), format!("/save {}", text(&other)));
    let run =
        ask(&["/help", "/quit", "/stats", "/save", "Hi", &save, &elsewhere, "/save", "/bye", "Hi"]);
    for part in [
        "/clear        forget what was said",
        "note: /quit is no command: /help lists them",
        "sampling: temperature 0\n",
        "error: /save is without a file, but the conversation is kept nowhere yet: /save FILE",
        &format!("the conversation is in {}", text(&kept)),
        &format!("but the conversation is kept in {} already", text(&kept)),
    ] {
        assert!(run.err.contains(part), "{part}: {}", run.err);
    }
    let last = run.err.lines().last().unwrap();
    assert!(last.starts_with("prompt 7 tokens"), "one question, and none after /bye: {last}");
    assert!(!other.exists());

    // What is there already is not mixed with another conversation; it goes on with --session.
    let run = ask(&["Yo", &save]);
    assert!(run.error().contains("talk.kv, but there is a conversation in it"), "{}", run.error());
    let more = ["--session", text(&kept), "--prompt", "Go", "--max-tokens", "1", "--json"];
    let report = model.generate(&more).fine().json();
    assert!(report["session"]["loaded_tokens"].as_u64().unwrap() >= 8, "{report}");

    // After /clear the next question is the first.
    let run = ask(&["Hello there", "/clear", "//Hi"]);
    assert!(run.err.contains("what was said is forgotten"), "{}", run.err);
    let last = run.err.lines().last().unwrap();
    assert!(last.contains("; context 9 tokens"), "of /Hi: {last}");
}
