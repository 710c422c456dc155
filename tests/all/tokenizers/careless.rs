//! GGUF files that say more, less or something else about their tokens than llama.cpp's converter does.

use std::path::Path;

use asynctls::Result;
use asynctls::model::{Array, Gguf, Tokenizer, Value};

use crate::common::gguf_builder::GgufBuilder;

/// The tokenizer of a family's file with these values instead of its own, or besides.
fn with(family: &str, changes: &[(&str, Value)]) -> Result<Tokenizer> {
    let file = Gguf::open(&super::folder(family).join("tokenizer.gguf")).unwrap();
    let is_kept = |key: &str| changes.iter().all(|(changed, _)| *changed != key);
    let kept = file.metadata().filter(|(key, _)| is_kept(key));
    let changed = changes.iter().map(|(key, value)| (*key, value));
    let builder =
        kept.chain(changed).fold(GgufBuilder::new(3), |b, (key, value)| b.value(key, value));
    Tokenizer::read(&Gguf::from_bytes(Path::new("changed.gguf"), builder.build()).unwrap())
}

/// The types of a family's tokens, those of some changed to `kind`.
fn types(family: &str, tokens: &[&str], kind: i32) -> Value {
    let file = Gguf::open(&super::folder(family).join("tokenizer.gguf")).unwrap();
    let mut types = file.i32s("tokenizer.ggml.token_type").unwrap().into_owned();
    for (token, its) in file.strings("tokenizer.ggml.tokens").unwrap().iter().zip(&mut types) {
        if tokens.contains(&token.as_str()) {
            *its = kind;
        }
    }
    Value::Array(Array::I32(types))
}

fn stops(tokenizer: &Tokenizer) -> Vec<u32> {
    (0..tokenizer.vocabulary_size() as u32).filter(|&id| tokenizer.is_stop(id)).collect()
}

#[test]
fn all_ends_that_the_keys_name_stop() {
    let own = stops(&with("qwen2", &[]).unwrap());
    for (key, value, more) in [
        ("eos_token_ids", Value::Array(Array::U32(vec![7, 8])), &[7, 8][..]),
        ("eog_token_ids", Value::Array(Array::I32(vec![9])), &[9]),
        ("eot_token_id", Value::U32(10), &[10]),
        ("eom_token_id", Value::U32(11), &[11]),
    ] {
        let key = format!("tokenizer.ggml.{key}");
        let tokenizer = with("qwen2", &[(&key, value)]).unwrap();
        assert_eq!(stops(&tokenizer), [more, &own].concat(), "{key}");
    }
    let negative = Value::Array(Array::I32(vec![-1]));
    let error =
        with("qwen2", &[("tokenizer.ggml.eos_token_ids", negative)]).unwrap_err().to_string();
    assert!(error.starts_with("tokenizer.ggml.eos_token_ids has -1, but"), "{error}");
}

#[test]
fn control_tokens_of_another_type_stay_what_they_are() {
    const ALL: [&str; 6] = [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eom_id|>",
        "<|eot_id|>",
    ];
    let sound = with("llama3", &[]).unwrap();
    let text = ALL.concat();
    let ids = sound.encode(&text, true).unwrap();
    assert_eq!(ids.len(), ALL.len());
    // 1 normal, 4 user defined; marks that end nothing may well be the latter.
    for (kind, calls, tokens) in
        [(1, "text", &ALL[..]), (4, "user-defined", &[ALL[0], ALL[1], ALL[4], ALL[5]])]
    {
        let types = types("llama3", tokens, kind);
        let tokenizer = with("llama3", &[("tokenizer.ggml.token_type", types)]).unwrap();
        assert_eq!(tokenizer.encode(&text, true).unwrap(), ids, "{calls}");
        assert_eq!(
            tokenizer.encode(&text, false).unwrap(),
            sound.encode(&text, false).unwrap(),
            "{calls}"
        );
        assert_eq!(stops(&tokenizer), stops(&sound), "{calls}");
        let [warning] = tokenizer.warnings() else { panic!("{:?}", tokenizer.warnings()) };
        assert!(warning.starts_with("the vocabulary calls \"<|begin_of_text|>\""), "{warning}");
        assert!(warning.contains(calls), "{warning}");
    }
}

#[test]
fn bos_is_the_files_word_and_else_the_familys() {
    let bos = with("llama3", &[]).unwrap().bos().unwrap();
    let key = "tokenizer.ggml.add_bos_token";
    assert_eq!(with("llama3", &[(key, Value::Bool(true))]).unwrap().leading(), [bos]);
    assert!(with("llama3", &[(key, Value::Bool(false))]).unwrap().leading().is_empty());
    let named = [("tokenizer.ggml.bos_token_id", Value::U32(5))];
    assert!(with("qwen2", &named).unwrap().leading().is_empty());
    let asked = [named[0].clone(), (key, Value::Bool(true))];
    assert_eq!(with("qwen2", &asked).unwrap().leading(), [5]);
}
