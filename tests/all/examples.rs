//! The examples do what they say, with a tiny model whose answers mean nothing.

#[path = "../../examples/batch.rs"]
#[allow(dead_code, reason = "its main is the example's")]
mod batch;
#[path = "../../examples/chat.rs"]
#[allow(dead_code, reason = "its main is the example's")]
mod chat;

use crate::cli::tiny::Tiny;
use crate::common::device::gpu;
use asynctls::model::sampler::SamplerSettings;
use serde_json::json;

#[test]
fn a_chat_goes_on_in_its_session() {
    let model = Tiny::new(&json!({}));
    let settings = SamplerSettings { temperature: 1.0, ..Default::default() };
    let open = chat::Chat::open(gpu(), model.path(), 256, settings);
    let mut chat = pollster::block_on(open).expect("a chat");
    let mut shown = String::new();
    for question in ["One?", "Two?"] {
        shown.clear();
        let mut show = |text: &str| shown.push_str(text);
        pollster::block_on(chat.ask(question, 12, &mut show)).expect("an answer");
    }
    let said: Vec<&str> = chat.messages().iter().map(|message| message.role.as_str()).collect();
    assert_eq!(said, ["user", "assistant", "user", "assistant"]);
    assert_eq!(chat.messages()[3].content, shown);
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
