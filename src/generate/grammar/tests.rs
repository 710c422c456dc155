//! Answers in a grammar, made of logits that no model gave.

use super::*;
use crate::attention::Attention;
use crate::engine::{Output, Want};
use crate::generate::{AnswerOptions, End, Framing, Sequence};
use crate::model::{ChatTemplate, SamplerSettings};
use proptest::prelude::*;
use rand_pcg::Pcg64;
use rand_pcg::rand_core::{Rng, SeedableRng};
use serde_json::json;
use std::sync::LazyLock;

// Its vocabulary has the marks of thoughts.
static FRAMING: LazyLock<Framing> = LazyLock::new(|| {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/tokenizers/qwen2");
    let tokenizer = Tokenizer::from_folder(folder.as_ref()).unwrap();
    Framing::new(
        tokenizer,
        Some(ChatTemplate::new("{{ messages[0].content }}{# <think> #}").unwrap()),
    )
});

// The same without a frame, and so without thoughts.
static RAW: LazyLock<Framing> = LazyLock::new(|| Framing::raw(FRAMING.tokenizer().clone()));

fn id(text: &str) -> u32 {
    let ids = FRAMING.tokenizer().encode(text, true).unwrap();
    assert_eq!(ids.len(), 1, "{text} is {ids:?}");
    ids[0]
}

fn begun(schema: &Value, prompt: &str, change: impl FnOnce(&mut AnswerOptions)) -> Sequence {
    let mut options = AnswerOptions::new(SamplerSettings::default(), Attention::Dense);
    options.grammar = Some(FRAMING.json_schema(schema).unwrap());
    change(&mut options);
    let tokenizer = FRAMING.tokenizer().clone();
    let prompt = tokenizer.encode(prompt, true).unwrap();
    let sequence = Sequence::new(tokenizer, prompt, 9999, &options, 0).unwrap();
    assert_eq!(sequence.want(), Want::Logits);
    sequence
}

// Equal logits but for some tokens, the likeliest first.
fn likely(tokens: &[u32]) -> Output {
    let mut logits = vec![0.0; FRAMING.tokenizer().vocabulary_size() + 7];
    for (at, token) in tokens.iter().rev().enumerate() {
        logits[*token as usize] = 1.0 + at as f32;
    }
    Output { tokens: Vec::new(), logits: vec![logits] }
}

fn finish(mut sequence: Sequence) -> (String, Option<End>) {
    while sequence.end().is_none() {
        sequence.accept(&likely(&[])).unwrap();
    }
    (sequence.text().to_owned(), sequence.end())
}

#[test]
fn an_answer_ends_when_its_grammar_does() {
    let (text, end) = finish(begun(&json!({"const": "yes"}), "Hi", |_| ()));
    assert_eq!((text.as_str(), end), ("\"yes\"", Some(End::StopToken)));
    let cut = begun(&json!({"const": "a b c d e f"}), "Hi", |options| options.max_tokens = 2);
    let (text, end) = finish(cut);
    assert!("\"a b c d e f\"".starts_with(&text) && end == Some(End::Length), "{text} {end:?}");
    // The last token that there may be completes it.
    let whole = begun(&json!({"const": 7}), "Hi", |options| options.max_tokens = 1);
    assert_eq!(finish(whole), ("7".into(), Some(End::StopToken)));
}

#[test]
fn blanks_between_signs_come_to_an_end() {
    let tab = id("\t");
    let mut sequence = begun(&json!({"type": "array", "items": {"const": 1}}), "Hi", |_| ());
    let (open, one) = (id("["), id("1"));
    // A model that likes nothing better than tabs.
    while sequence.end().is_none() && sequence.text().len() < 200 {
        sequence.accept(&likely(&[tab, one, open])).unwrap();
    }
    let longest = sequence.text().split(|c| c != '\t').map(str::len).max();
    assert_eq!(longest, Some(64), "{:?}", sequence.text());
}

#[test]
fn a_stop_token_ends_what_is_whole_and_nothing_else() {
    let stop = FRAMING.tokenizer().eos().unwrap();
    let mut number = begun(&json!({"type": "integer"}), "Hi", |_| ());
    let first = number.accept(&likely(&[stop, id("O"), id("4")])).unwrap();
    assert_eq!((first.text.as_str(), number.end()), ("4", None));
    number.accept(&likely(&[stop])).unwrap();
    assert_eq!((number.text(), number.end()), ("4", Some(End::StopToken)));
}

#[test]
fn a_thought_is_free_and_the_grammar_begins_behind_it() {
    let stop = FRAMING.tokenizer().eos().unwrap();
    let (open, close) = (id("<think>"), id("</think>"));
    let schema = json!({"const": "yes"});
    let thinking = |sequence: &mut Sequence| {
        // A thought that ended the answer would leave it without any.
        assert_eq!(sequence.accept(&likely(&[stop, id("O")])).unwrap().text, "O");
        assert_eq!(sequence.accept(&likely(&[close])).unwrap().tokens, [close]);
    };
    let mut framed = begun(&schema, "<think>\n", |_| ());
    thinking(&mut framed);
    assert!(finish(framed).0.ends_with("\"yes\""));
    let mut own = begun(&schema, "Hi", |_| ());
    assert_eq!(own.accept(&likely(&[stop, open])).unwrap().tokens, [open]);
    thinking(&mut own);
    assert!(finish(own).0.ends_with("\"yes\""));
    // It need not think, cannot begin to later, and does not where the prompt says so, or where there is no frame.
    assert_eq!(finish(begun(&schema, "Hi", |_| ())).0, "\"yes\"");
    for (prompt, grammar) in [
        ("<think>\n\n</think>\n\n", FRAMING.json_schema(&schema)),
        ("Hi", RAW.json_schema(&schema)),
    ] {
        let mut without = begun(&schema, prompt, |options| options.grammar = grammar.ok());
        assert_ne!(without.accept(&likely(&[open])).unwrap().tokens, [open], "{prompt}");
        assert_eq!(finish(without).0, "\"yes\"");
    }
}

#[test]
fn what_cannot_be_met_or_understood_is_refused() {
    for schema in [
        json!({"type": "string", "minLength": 3, "maxLength": 2}),
        json!({"type": "object", "properties": {"a": false}, "required": ["a"]}),
        json!({"type": "nothing"}),
        json!({"$ref": "http://example.org/schema"}),
        json!({"$ref": "#/$defs/missing"}),
        json!({"type": "string", "pattern": "("}),
        json!({"enum": []}),
        json!(false),
        json!(7),
        json!([]),
    ] {
        let refused = FRAMING.json_schema(&schema).expect_err(&schema.to_string()).to_string();
        let begins = "the JSON schema is ";
        assert!(refused.starts_with(begins) && refused.contains("no answer can be held to it: "));
        assert!(!refused.contains('\n') && refused.len() < 500, "{refused}");
    }
    let lists =
        |depth| (0..depth).fold(json!(true), |inner, _| json!({"type": "array", "items": inner}));
    let alike = json!({"allOf": [{"$ref": "#"}]});
    for schema in [json!({"$ref": "#"}), alike, lists(20), lists(120)] {
        let _ = FRAMING.json_schema(&schema);
    }
}

#[test]
fn grammars_are_the_same_where_their_schemas_are() {
    let of = |schema: Value| FRAMING.json_schema(&schema).unwrap();
    assert_eq!(of(json!({"type": "object"})), of(json!({"type": "object"})));
    assert_ne!(of(json!({"type": "object"})), of(json!({"type": "array"})));
}

#[test]
fn logits_that_are_no_numbers_and_tokens_that_no_logit_allows_are_errors() {
    let mut sequence = begun(&json!({"const": 7}), "Hi", |_| ());
    let size = FRAMING.tokenizer().vocabulary_size();
    let mut all = vec![f32::NEG_INFINITY; size];
    all[id("O") as usize] = 1.0;
    for logits in [vec![f32::NAN; size], all, vec![1.0; 3]] {
        let output = Output { tokens: Vec::new(), logits: vec![logits] };
        let error = sequence.accept(&output).unwrap_err().to_string();
        assert!(error.contains("no token can be chosen"), "{error}");
    }
    assert_eq!(finish(sequence).0, "7", "it goes on");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_the_logits_are_what_ends_is_an_object(seed in any::<u64>()) {
        let sampling = SamplerSettings { temperature: 1.0, seed, ..SamplerSettings::default() };
        let schema = json!({
            "type": "object", "additionalProperties": false, "required": ["a", "b"],
            "properties": {
                "a": {"type": "integer", "minimum": 0, "maximum": 99},
                "b": {"type": "string", "maxLength": 9},
            },
        });
        let mut sequence = begun(&schema, "Hi", |options| {
            (options.sampling, options.max_tokens) = (sampling, 200);
            options.grammar = Some(RAW.json_schema(&schema).unwrap());
        });
        let mut random = Pcg64::seed_from_u64(seed);
        let size = FRAMING.tokenizer().vocabulary_size();
        while sequence.end().is_none() {
            let logits = (0..size).map(|_| (random.next_u32() % 64) as f32 / 8.0).collect();
            sequence.accept(&Output { tokens: Vec::new(), logits: vec![logits] }).unwrap();
        }
        if sequence.end() == Some(End::StopToken) {
            let value: Value = serde_json::from_str(sequence.text()).unwrap();
            prop_assert!(value["a"].as_u64().is_some_and(|a| a < 100), "{value}");
            prop_assert!(value["b"].as_str().is_some_and(|b| b.chars().count() <= 9), "{value}");
            prop_assert_eq!(value.as_object().unwrap().len(), 2);
        }
    }
}
