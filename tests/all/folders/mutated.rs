//! Every number, flag and name of a description replaced by absurd ones, and weights' headers changed at random: read or
//! refused, and nothing else.

use super::fixture::{CONFIG, Fixture, WEIGHTS, bounded, tiny};
use crate::common::gguf_builder::GgufBuilder;
use asynctls::model::{Array, Gguf, ModelConfig, ModelFile, Value as GgufValue};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

const MODELS: [&str; 2] = ["qwen3-moe", "glm4-moe-lite"];

fn absurd() -> Vec<Value> {
    let long = "x".repeat(100_000);
    vec![
        json!(null),
        json!(true),
        json!(false),
        json!(0),
        json!(1),
        json!(-1),
        json!(3),
        json!(1 << 20),
        json!(1_000_000_000),
        json!(u32::MAX),
        json!(1u64 << 32),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(0.5),
        json!(1e-45),
        json!(1e20),
        json!(1e39),
        json!(-1e300),
        json!(""),
        json!("yarn"),
        json!("NaN"),
        json!(long),
        json!([]),
        json!([0, -1, 1e20, null, long]),
        json!({}),
        json!({"rope_type": "yarn", "factor": 1e-30, "rope_theta": 1.0}),
    ]
}

// The places of all values that hold no others, as JSON pointers, and of all lists and objects.
fn places(value: &Value, here: &str, found: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), value)).collect(),
        Value::Array(list) => {
            list.iter().enumerate().map(|(i, value)| (i.to_string(), value)).collect()
        }
        _ => Vec::new(),
    };
    if !here.is_empty() {
        found.push(here.to_owned());
    }
    for (key, child) in children {
        places(child, &format!("{here}/{key}"), found);
    }
}

#[test]
fn any_value_of_config_json_can_be_absurd() {
    for model in MODELS {
        let fixture = Fixture::of(model);
        let sound = fixture.json(CONFIG);
        let mut found = Vec::new();
        places(&sound, "", &mut found);
        assert!(found.len() > 30);
        let mut refusals = 0;
        for place in &found {
            for value in absurd() {
                let mut config = sound.clone();
                *config.pointer_mut(place).unwrap() = value;
                refusals += u32::from(fixture.write(CONFIG, config.to_string()).read().is_err());
            }
            let mut config = sound.clone();
            if let Some(key) = place.strip_prefix('/').filter(|key| !key.contains('/')) {
                config.as_object_mut().unwrap().remove(key);
                refusals += u32::from(fixture.write(CONFIG, config.to_string()).read().is_err());
            }
        }
        assert!(refusals > 300, "{refusals}");
    }
}

fn absurd_gguf() -> Vec<GgufValue> {
    vec![
        GgufValue::Bool(true),
        GgufValue::U32(0),
        GgufValue::U32(1),
        GgufValue::U32(3),
        GgufValue::U32(1 << 20),
        GgufValue::U32(1_000_000_000),
        GgufValue::U32(u32::MAX),
        GgufValue::I32(-1),
        GgufValue::U64(u64::MAX),
        GgufValue::F32(0.0),
        GgufValue::F32(1e-45),
        GgufValue::F32(-1.0),
        GgufValue::F32(f32::NAN),
        GgufValue::F32(f32::INFINITY),
        GgufValue::F64(1e300),
        GgufValue::String("yarn".into()),
        GgufValue::String("x".repeat(100_000)),
        GgufValue::Array(Array::I32(vec![-1; 4])),
    ]
}

/// The file with a key's value replaced, or without it.
fn with(file: &Gguf, changed: &str, value: Option<&GgufValue>) -> Vec<u8> {
    let builder = file.metadata().fold(GgufBuilder::new(3), |builder, (key, old)| {
        match if key == changed { value } else { Some(old) } {
            Some(value) => builder.value(key, value),
            None => builder,
        }
    });
    let builder = file.tensors().iter().fold(builder, |builder, tensor| {
        builder.tensor(&tensor.name, &tensor.shape, tensor.kind.id(), file.bytes(tensor))
    });
    builder.build()
}

#[test]
fn any_value_of_a_gguf_description_can_be_absurd() {
    let read = |bytes: Vec<u8>| {
        let file = Gguf::from_bytes(Path::new("some.gguf"), bytes).map(ModelFile::from);
        bounded(|| ModelConfig::read(&file?))
    };
    for model in MODELS {
        let file = Gguf::open(&tiny(model).join("model.gguf")).unwrap();
        let architecture = file.str("general.architecture").unwrap();
        let keys: Vec<&str> = file
            .metadata()
            .map(|(key, _)| key)
            .filter(|key| key.starts_with(architecture) || *key == "general.architecture")
            .collect();
        assert!(keys.len() > 10);
        assert!(read(with(&file, "", None)).is_ok());
        let mut refusals = 0;
        for key in keys {
            for value in absurd_gguf() {
                refusals += u32::from(read(with(&file, key, Some(&value))).is_err());
            }
            refusals += u32::from(read(with(&file, key, None)).is_err());
        }
        assert!(refusals > 100, "{refusals}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_headers_are_survived(
        cases in prop::collection::vec(
            prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), 1000),
    ) {
        let fixture = Fixture::of("llama");
        let sound = fs::read(fixture.path(WEIGHTS)).unwrap();
        let header = 8 + u64::from_le_bytes(*sound.first_chunk().unwrap()) as usize;
        let mut refusals = 0;
        for changes in cases {
            let mut file = sound.clone();
            for (place, byte) in &changes {
                file[place.index(header)] = *byte;
            }
            refusals += u32::from(fixture.write(WEIGHTS, file).read().is_err());
        }
        prop_assert!(refusals > 500, "{refusals}");
    }
}
