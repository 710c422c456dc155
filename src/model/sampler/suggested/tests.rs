use std::fs;
use std::path::Path;

use super::*;
use crate::model::gguf::Value;

// A file with these keys under `general.sampling.`.
fn gguf(pairs: &[(&str, Value)]) -> SuggestedSampling {
    let mut file = b"GGUF".to_vec();
    file.extend(3u32.to_le_bytes());
    file.extend(0u64.to_le_bytes());
    file.extend((pairs.len() as u64).to_le_bytes());
    let text = |file: &mut Vec<u8>, text: &str| {
        file.extend((text.len() as u64).to_le_bytes());
        file.extend(text.as_bytes());
    };
    for (key, value) in pairs {
        text(&mut file, &format!("general.sampling.{key}"));
        match value {
            Value::I32(value) => {
                file.extend(5u32.to_le_bytes());
                file.extend(value.to_le_bytes());
            }
            Value::F32(value) => {
                file.extend(6u32.to_le_bytes());
                file.extend(value.to_le_bytes());
            }
            Value::F64(value) => {
                file.extend(12u32.to_le_bytes());
                file.extend(value.to_le_bytes());
            }
            Value::String(value) => {
                file.extend(8u32.to_le_bytes());
                text(&mut file, value);
            }
            other => panic!("{other}"),
        }
    }
    SuggestedSampling::read(&Gguf::from_bytes("m.gguf".as_ref(), file).unwrap())
}

// A folder with this `generation_config.json`.
fn folder(generation: Option<&str>) -> SuggestedSampling {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/tiny/llama/model");
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(tiny.join(name), folder.path().join(name)).unwrap();
    }
    if let Some(text) = generation {
        fs::write(folder.path().join("generation_config.json"), text).unwrap();
    }
    SuggestedSampling::from_folder(&Folder::open(folder.path()).unwrap()).unwrap()
}

#[test]
fn files_that_say_nothing_leave_it_at_the_likeliest() {
    for nothing in [gguf(&[]), folder(None), folder(Some("{\"eos_token_id\": 2}"))] {
        assert_eq!(nothing, SuggestedSampling::default());
        assert_eq!(nothing.settings(), SamplerSettings::default());
    }
}

#[test]
fn a_gguf_file_has_the_keys_of_llama_cpp() {
    let found = gguf(&[
        ("temp", Value::F32(0.75)),
        ("top_k", Value::I32(20)),
        ("top_p", Value::F64(0.5)),
        ("min_p", Value::F32(0.25)),
        ("penalty_last_n", Value::I32(-1)),
        ("penalty_repeat", Value::F32(1.5)),
    ]);
    let expected = SuggestedSampling {
        temperature: Some(0.75),
        top_k: Some(20),
        top_p: Some(0.5),
        min_p: Some(0.25),
        repetition_penalty: Some(1.5),
        ..SuggestedSampling::default()
    };
    assert_eq!(found, expected);
    let window = |pairs: &[(&str, Value)]| gguf(pairs).repetition_window;
    let penalty = ("penalty_repeat", Value::F32(1.5));
    assert_eq!(window(std::slice::from_ref(&penalty)), Some(64), "as llama.cpp has it");
    assert_eq!(window(&[penalty.clone(), ("penalty_last_n", Value::I32(9))]), Some(9));
    assert_eq!(window(&[penalty, ("penalty_last_n", Value::I32(0))]), Some(0));
    assert_eq!(window(&[]), None);
    // A limit is of use for draws alone; -1 is none.
    let found = gguf(&[("top_k", Value::I32(-1))]);
    assert_eq!((found.temperature, found.top_k), (Some(1.0), Some(0)));
}

#[test]
fn a_folder_has_the_keys_of_transformers() {
    let found = folder(Some(
        r#"{"do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": null,
            "repetition_penalty": 1.05, "eos_token_id": [1, 2]}"#,
    ));
    let expected = SuggestedSampling {
        temperature: Some(0.6),
        top_k: Some(20),
        top_p: Some(0.95),
        repetition_penalty: Some(1.05),
        ..SuggestedSampling::default()
    };
    assert_eq!(found, expected);
    // Penalties are not draws.
    let greedy = folder(Some(
        r#"{"do_sample": false, "temperature": 0.6, "top_k": 20, "repetition_penalty": 1.05}"#,
    ));
    assert_eq!((greedy.temperature, greedy.top_k), (Some(0.0), None));
    assert_eq!(greedy.repetition_penalty, Some(1.05));
    assert_eq!(folder(Some(r#"{"do_sample": true}"#)).temperature, Some(1.0));
    assert_eq!(folder(Some("\u{FEFF}{\"temperature\": 0.5}")).temperature, Some(0.5));
}

#[test]
fn what_makes_no_sense_or_is_not_done_is_said_and_left_out() {
    let found = gguf(&[
        ("temp", Value::F32(-1.0)),
        ("top_k", Value::F32(1.5)),
        ("top_p", Value::String("high".into())),
        ("mirostat", Value::I32(2)),
        ("xtc_probability", Value::F32(0.0)),
    ]);
    assert_eq!(
        found.unused,
        [
            "general.sampling.temp is -1, but a finite number of at least 0 is needed; it is not used",
            "general.sampling.top_k is 1.5, but a whole number of at least -1 is needed; it is not used",
            "general.sampling.top_p is the string \"high\", but a number above 0 and at most 1 is needed; it is not used",
            "general.sampling.mirostat is not supported; it is not used",
        ]
    );
    assert_eq!(found.settings(), SamplerSettings::default());
    let found = folder(Some(r#"{"top_p": 2, "num_beams": 4, "typical_p": 1.0}"#));
    assert_eq!(found.unused.len(), 2, "{:?}", found.unused);
    assert!(
        found.unused[0].contains("generation_config.json: top_p is 2, but"),
        "{:?}",
        found.unused
    );
    assert!(found.unused[1].contains("num_beams is not supported"), "{:?}", found.unused);
}
