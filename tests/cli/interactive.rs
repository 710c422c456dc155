//! `asynctls generate -i`: one session, several questions.

use super::program::generate_from;

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
    assert!(run.error().ends_with("tokens, but the context holds 64"), "{}", run.error());
    assert_eq!(run.out, "The capital of France is Paris.\n");
}
