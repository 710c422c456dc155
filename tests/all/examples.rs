//! The examples do what they say, with a tiny model whose answers mean nothing.

#[path = "../../examples/batch.rs"]
#[allow(dead_code, reason = "its main is the example's")]
mod batch;
#[path = "../../examples/chat.rs"]
#[allow(dead_code, reason = "its main is the example's")]
mod chat;

use crate::cli::tiny::Tiny;
use crate::common::device::gpu;
use asynctls::generate::{AnswerOptions, Chat};
use serde_json::json;

#[test]
fn a_chat_goes_on_in_its_session() {
    let model = Tiny::new(&json!({"do_sample": true}));
    let open = chat::open(gpu(), model.path(), 256);
    let (mut generator, options) = pollster::block_on(open).expect("a generator");
    let options = AnswerOptions { max_tokens: 12, ..options };
    let mut said = Chat::default();
    let mut shown = String::new();
    for question in ["One?", "Two?"] {
        shown.clear();
        let mut show = |text: &str| shown.push_str(text);
        said.ask(question);
        let answer = chat::answer(&mut generator, &mut said, &options, &mut show);
        pollster::block_on(answer).expect("an answer");
    }
    let roles: Vec<&str> = said.turns().iter().map(|turn| turn.role.as_str()).collect();
    assert_eq!(roles, ["user", "assistant", "user", "assistant"]);
    assert_eq!(said.turns()[3].content, shown);
}

#[test]
fn a_batch_makes_of_each_text_what_it_makes_of_it_alone() {
    let model = Tiny::new(&json!({}));
    let texts = ["One".to_owned(), "Two and three, and".to_owned()];
    let go_on = |texts: &[String]| {
        let made = batch::go_on(gpu(), model.path(), texts, 6);
        pollster::block_on(made).expect("texts")
    };
    let together = go_on(&texts);
    assert_eq!(together.len(), 2);
    for (text, more) in texts.iter().zip(&together) {
        assert_eq!(go_on(std::slice::from_ref(text)), [more.as_str()], "{text}");
    }
}
