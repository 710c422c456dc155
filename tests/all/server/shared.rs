//! Two servers on one directory of a prefix cache, of which one is killed.
#![cfg(unix)]

use super::client::Served;
use crate::cli::program::text;
use crate::common::steps::rounds_products;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

const CHAT: &str = "/v1/chat/completions";

fn ask(served: &Served, messages: &[Value]) -> Value {
    served.post(CHAT, &json!({"messages": messages, "max_tokens": 12})).json()
}

fn said(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().unwrap()
}

fn cached(answer: &Value) -> u64 {
    answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
}

// Blocks that are stored.
fn stored(directory: &Path) -> u64 {
    let folders = fs::read_dir(directory).unwrap().map(|folder| folder.unwrap().path());
    let folders = folders.filter(|folder| folder.file_name().unwrap().len() == 2);
    folders.map(|folder| fs::read_dir(folder).unwrap().count() as u64).sum()
}

#[test]
fn a_conversation_goes_on_at_another_server_when_the_first_is_killed() {
    let ways: [(&[&str], u64); 2] =
        [(&["--attention", "dense", "--block-size", "16"], 16), (&["--dense-below", "256"], 64)];
    for (attention, block) in ways {
        let folder = tempfile::tempdir().unwrap();
        let sharing = [attention, &["--prefix-cache", text(folder.path())]].concat();
        let (second, alone) = (Served::new(&sharing), Served::new(attention));
        let mut conversations = Vec::new();
        // The last time it is killed while it may still store what it read.
        for (number, waits) in [true, true, false].into_iter().enumerate() {
            let mut first = Served::new(&sharing);
            let before = stored(folder.path());
            // Longer than what index channels are chosen by.
            let document = format!("{number} {}", "It was a dark and stormy night. ".repeat(40));
            let mut messages = vec![json!({"role": "user", "content": document})];
            let answer = ask(&first, &messages);
            let whole = answer["usage"]["prompt_tokens"].as_u64().unwrap() / block;
            if waits {
                first.until("it is stored", |_| stored(folder.path()) >= before + whole);
            }
            messages.push(json!({"role": "assistant", "content": said(&answer)}));
            messages.push(json!({"role": "user", "content": "And what then?"}));
            let body = json!({"messages": messages, "max_tokens": 400, "stream": true});
            let _stream = first.open_json(CHAT, &body);
            first.until("it answers", |first| first.get("/slots").json()[0]["state"] == "answer");
            first.signal("KILL");
            first.end();

            let (found, fresh) = (ask(&second, &messages), ask(&alone, &messages));
            assert!(rounds_products() || said(&found) == said(&fresh), "{found} {fresh}");
            // What is there of it depends on when it was killed.
            assert!(!waits || cached(&found) >= whole * block, "{whole} blocks: {found}");
            conversations.push((messages, fresh));
        }
        assert_eq!(second.metric("prefix_cache_damaged_total"), 0.0);
        assert_eq!(second.metric("prefix_cache_failed_total"), 0.0);
        assert!(second.metric("prefix_cache_hits_total") >= 2.0);
        drop(second);
        // All that the two left is sound.
        let third = Served::new(&sharing);
        for (messages, fresh) in conversations {
            let found = ask(&third, &messages);
            assert!(cached(&found) >= 1024, "{found}");
            assert!(rounds_products() || said(&found) == said(&fresh), "{found} {fresh}");
        }
        assert_eq!(third.metric("prefix_cache_damaged_total"), 0.0);
    }
}
