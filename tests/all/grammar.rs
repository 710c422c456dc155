//! Answers that are JSON by a schema, several at a time beside free ones.

use crate::cli::tiny::Tiny;
use crate::common::device::{gpu, tiny_options};
use crate::common::model;
use crate::common::steps::rounds_products;
use asynctls::attention::Attention;
use asynctls::engine::Engine;
use asynctls::generate::{AnswerOptions, End, Framing};
use asynctls::model::{ModelFile, SamplerSettings};
use asynctls::serve::{BatchOptions, Batcher, Event, Events, Request};
use futures::future::{join, join_all};
use pollster::block_on;
use rand_pcg::Pcg32;
use rand_pcg::rand_core::{Rng, SeedableRng};
use serde_json::{Value, json};
use std::sync::Arc;

/// Random schemas, whose values are short.
struct Schemas(Pcg32);

impl Schemas {
    fn below(&mut self, count: u32) -> u32 {
        self.0.next_u32() % count
    }

    fn next(&mut self, depth: u32) -> Value {
        match self.below(if depth == 0 { 6 } else { 9 }) {
            0 => json!({"type": "boolean"}),
            1 => json!({"type": "null"}),
            2 => json!({"type": "integer", "minimum": -5, "maximum": self.below(200)}),
            3 => json!({"type": "string", "maxLength": self.below(6)}),
            4 => json!({"enum": ["a", 1, null, "\u{e9}\"", [true]]}),
            5 => json!({"const": {"x": [self.below(9)]}}),
            6 => {
                json!({"type": "array", "items": self.next(depth - 1), "minItems": 1, "maxItems": 2})
            }
            7 => json!({"anyOf": [self.next(depth - 1), self.next(depth - 1)]}),
            _ => {
                let names = ["a", "b c", "\u{e9}"];
                let count = 1 + self.below(3) as usize;
                let properties: serde_json::Map<String, Value> = names[..count]
                    .iter()
                    .map(|name| ((*name).into(), self.next(depth - 1)))
                    .collect();
                json!({
                    "type": "object", "properties": properties, "required": [names[0]],
                    "additionalProperties": false,
                })
            }
        }
    }
}

// Whether a value is by a schema of these kinds.
fn holds(schema: &Value, value: &Value) -> bool {
    if let Some(any) = schema["anyOf"].as_array() {
        return any.iter().any(|one| holds(one, value));
    }
    if let Some(values) = schema["enum"].as_array() {
        return values.contains(value);
    }
    if let Some(only) = schema.get("const") {
        return only == value;
    }
    match schema["type"].as_str().expect("a type") {
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "integer" => value
            .as_i64()
            .is_some_and(|whole| (-5..=schema["maximum"].as_i64().unwrap()).contains(&whole)),
        "string" => value.as_str().is_some_and(|text| {
            text.chars().count() as u64 <= schema["maxLength"].as_u64().unwrap()
        }),
        "array" => value.as_array().is_some_and(|items| {
            (1..=2).contains(&items.len()) && items.iter().all(|item| holds(&schema["items"], item))
        }),
        "object" => value.as_object().is_some_and(|fields| {
            let known = |(name, value): (&String, &Value)| {
                schema["properties"].get(name).is_some_and(|schema| holds(schema, value))
            };
            fields.iter().all(known) && fields.contains_key("a")
        }),
        other => panic!("{other}"),
    }
}

/// A model, and how it is asked.
struct Asked {
    engine: Arc<Engine>,
    framing: Arc<Framing>,
}

#[derive(Debug, PartialEq)]
struct Answer {
    tokens: Vec<u32>,
    text: String,
    end: End,
}

async fn answer(mut events: Events) -> Answer {
    let (mut tokens, mut text) = (Vec::new(), String::new());
    while let Some(event) = events.next().await {
        match event {
            Event::Prefill { .. } => {}
            Event::Piece(piece) => {
                tokens.extend(piece.tokens);
                text += &piece.text;
            }
            Event::End(ended) => return Answer { tokens, text, end: ended.end },
            Event::Failed(error) => panic!("{error}"),
        }
    }
    panic!("the events ended without an end");
}

impl Asked {
    fn request(
        &self,
        question: &str,
        schema: Option<&Value>,
        sampling: SamplerSettings,
    ) -> Request {
        let prompt = self.framing.tokenizer().encode(question, false).unwrap();
        let mut options = AnswerOptions::new(sampling, Attention::Dense);
        options.max_tokens = 48;
        options.grammar = schema.map(|schema| self.framing.json_schema(schema).unwrap());
        Request::new(prompt, options)
    }

    fn together(&self, requests: Vec<Request>) -> Vec<Answer> {
        let options = BatchOptions::new(&self.engine, Attention::Dense);
        let made = Batcher::new(self.engine.clone(), self.framing.clone(), options);
        let (batcher, steps) = made.expect("a batcher");
        let submit = |request| batcher.submit(request).expect("a place");
        let events: Vec<Events> = requests.into_iter().map(submit).collect();
        drop(batcher);
        block_on(join(steps, join_all(events.into_iter().map(answer)))).1
    }

    // Random schemas, and a free answer beside them, each alone too.
    fn check(&self, seed: u64, count: usize, least: usize) {
        let mut schemas = Schemas(Pcg32::seed_from_u64(seed));
        let schemas: Vec<Value> = (0..count).map(|_| schemas.next(2)).collect();
        let greedy = SamplerSettings::default();
        let drawn = SamplerSettings { temperature: 1.0, seed, ..greedy };
        let mut requests = vec![
            self.request("Say something", None, greedy),
            self.request("Say something else", None, drawn),
        ];
        for (at, schema) in schemas.iter().enumerate() {
            let sampling = if at % 2 == 0 { greedy } else { drawn };
            requests.push(self.request("Some JSON", Some(schema), sampling));
        }
        let answers = self.together(requests.clone());
        // Sums of other orders may choose another token, as real models and some GPUs have them.
        let is_same = self.framing.tokenizer().vocabulary_size() < 1000 && !rounds_products();
        for (at, request) in requests.into_iter().enumerate().take(if is_same { 4 } else { 0 }) {
            assert_eq!(self.together(vec![request])[0], answers[at], "alone, {at}");
        }
        let mut whole = 0;
        for (schema, answer) in schemas.iter().zip(&answers[2..]) {
            let Answer { tokens, text, end } = answer;
            if *end == End::Length {
                assert_eq!(tokens.len(), 48);
                continue;
            }
            assert_eq!(*end, End::StopToken);
            let value =
                serde_json::from_str(text).unwrap_or_else(|e| panic!("{schema}: {text}: {e}"));
            assert!(holds(schema, &value), "{schema}: {value}");
            whole += 1;
        }
        assert!(whole >= least, "{whole} of {count} ended by themselves: {answers:?}");
    }
}

#[test]
fn what_a_tiny_model_ends_by_itself_is_json_by_its_schema() {
    let folder = Tiny::new(&json!({}));
    let file = ModelFile::open(folder.path()).expect("the model");
    let gpu = gpu();
    let options = tiny_options(&gpu, 128, 8, 64);
    let engine = block_on(Engine::load(gpu, &file, options, &mut |_| ())).expect("an engine");
    let framing = Arc::new(Framing::read(&file).expect("framing"));
    let asked = Asked { engine: Arc::new(engine), framing };
    for seed in 0..4 {
        asked.check(seed, 12, 6);
    }
}

#[test]
fn what_smollm2_ends_by_itself_is_json_by_its_schema() {
    let file = ModelFile::open(&model::model_path()).expect("the model: run tools/setup model");
    let engine = model::engine(gpu(), 128, |options| {
        (options.sessions, options.total_tokens) = (8, 8 * 128);
    });
    let framing = Arc::new(Framing::read(&file).expect("framing"));
    Asked { engine: Arc::new(engine), framing }.check(7, 6, 3);
}
