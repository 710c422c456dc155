//! How positions turn, as both formats say it: the same as the reference implementations, or refused by name.

use super::fixture::{CONFIG, Fixture, bounded, tiny};
use crate::common::gguf_builder::GgufBuilder;
use asynctls::model::{Gguf, ModelConfig, ModelFile, RopeChange, RopeKind, Value as GgufValue};
use serde_json::{Value, json};
use std::path::Path;

/// Golden cases of one format: what `tools/goldens/rope.py` wrote.
fn cases(format: &str) -> Vec<Value> {
    let text = std::fs::read_to_string("tests/goldens/rope.json").unwrap();
    let goldens: Value = serde_json::from_str(&text).unwrap();
    goldens[format].as_array().unwrap().clone()
}

/// Asserts that positions turn as a case says; the reference works in f32.
fn assert_turns(case: &Value, config: &ModelConfig) {
    let rotations = config.rope().rotations();
    let want: Vec<f64> =
        case["frequencies"].as_array().unwrap().iter().map(|f| f.as_f64().unwrap()).collect();
    let keys = &case["keys"];
    assert_eq!(rotations.frequencies().len(), want.len(), "{keys}");
    for (got, want) in rotations.frequencies().iter().zip(&want) {
        assert!((got - want).abs() <= 1e-6 * want, "{keys}: {got} instead of {want}");
    }
    let (got, want) = (rotations.magnitude(), case["magnitude"].as_f64().unwrap());
    assert!((got - want).abs() <= 1e-6 * want, "{keys}: magnitude {got} instead of {want}");
}

#[test]
fn folders_turn_as_in_transformers() {
    for case in cases("json") {
        let fixture = Fixture::of("llama");
        fixture.edit(CONFIG, |config| {
            for (key, value) in case["keys"].as_object().unwrap() {
                config[key] = value.clone();
            }
        });
        assert_turns(&case, &fixture.read().unwrap_or_else(|e| panic!("{}: {e}", case["keys"])));
    }
}

/// The tiny model with YaRN as a GGUF file whose keys of rotary embeddings are these alone, and whose context is 1,024.
fn gguf(keys: &Value, extra_tensor: Option<(&str, u64)>) -> Result<ModelConfig, String> {
    let file = Gguf::open(&tiny("qwen3-yarn").join("model.gguf")).unwrap();
    let mut builder = GgufBuilder::new(3);
    for (key, value) in file.metadata().filter(|(key, _)| !key.contains(".rope.scaling.")) {
        builder = builder.value(key, value);
    }
    for (key, value) in keys.as_object().unwrap() {
        let value = match value {
            Value::Bool(flag) => GgufValue::Bool(*flag),
            Value::String(text) => GgufValue::String(text.clone()),
            Value::Number(number) if number.is_u64() => {
                GgufValue::U32(number.as_u64().unwrap() as u32)
            }
            other => GgufValue::F32(other.as_f64().unwrap() as f32),
        };
        builder = builder.value(&format!("qwen3.rope.{key}"), &value);
    }
    for tensor in file.tensors() {
        let bytes = file.bytes(tensor);
        builder = builder.tensor(&tensor.name, &tensor.shape, tensor.kind.id(), bytes);
    }
    if let Some((name, length)) = extra_tensor {
        let ones: Vec<u8> = (0..length).flat_map(|_| 1f32.to_le_bytes()).collect();
        builder = builder.tensor(name, &[length], 0, &ones);
    }
    let bytes = builder.build();
    bounded(|| ModelConfig::read(&Gguf::from_bytes(Path::new("some.gguf"), bytes)?.into()))
}

#[test]
fn gguf_files_turn_as_in_llama_cpp() {
    for case in cases("gguf") {
        let keys = &case["keys"];
        assert_turns(&case, &gguf(keys, None).unwrap_or_else(|e| panic!("{keys}: {e}")));
    }
}

#[test]
fn gguf_keys_that_mean_something_else_are_refused_by_name() {
    let yarn =
        |key: &str, value: f64| json!({"scaling.type": "yarn", "scaling.factor": 4.0, key: value});
    for (keys, parts) in [
        (json!({"scaling.type": "longrope"}), &["RoPE scaling longrope is not supported"][..]),
        (json!({"scaling.type": "yarn"}), &["qwen3.rope.scaling.factor is missing"]),
        (json!({"scaling.factor": -4.0}), &["qwen3.rope.scaling.factor is -4"]),
        (json!({"scale_linear": -4.0}), &["qwen3.rope.scale_linear is -4"]),
        (json!({"scaling.attn_factor": 0.0}), &["qwen3.rope.scaling.attn_factor is 0"]),
        (json!({"scaling.alpha": 1000.0}), &["qwen3.rope.scaling.alpha", "is not supported"]),
        (json!({"freq_base_swa": 1e4}), &["qwen3.rope.freq_base_swa", "is not supported"]),
        (json!({"scaling.strange": 7}), &["qwen3.rope.scaling.strange", "is not known"]),
        (json!({"dimension_count": 32}), &["qwen3.rope.dimension_count is 32, but only 64"]),
        (
            yarn("scaling.yarn_ext_factor", 0.5),
            &["yarn_ext_factor is the f32 0.5, but only 1 is supported"],
        ),
        (yarn("scaling.yarn_log_multiplier", 0.1), &["yarn_log_multiplier", "but only 0 is"]),
        (yarn("scaling.yarn_attn_factor", 0.8), &["yarn_attn_factor is 0.8, but only 1 and"]),
        (yarn("scaling.yarn_beta_fast", -1.0), &["yarn_beta_fast is -1"]),
    ] {
        let message = gguf(&keys, None).unwrap_err();
        assert!(parts.iter().all(|part| message.contains(part)), "{keys}: {message}");
    }
    for name in ["rope_factors_long.weight", "rope_factors_short.weight"] {
        let message = gguf(&json!({}), Some((name, 32))).unwrap_err();
        assert!(message.contains(name), "{message}");
    }
    assert!(gguf(&json!({}), Some(("rope_freqs.weight", 32))).is_ok());
    let message = gguf(&json!({"scaling.factor": 2.0}), Some(("rope_freqs.weight", 32)));
    assert!(message.unwrap_err().contains("rope_freqs.weight beside RoPE scaling linear"));
}

#[test]
fn keys_of_folders_that_mean_something_else_are_refused_by_name() {
    for (scaling, part) in [
        (json!({"factor": 4.0}), "rope_scaling of config.json has a factor and no rope_type"),
        (json!({"rope_type": "longrope"}), "RoPE scaling longrope is not supported"),
        (json!({"type": "su", "long_factor": [1.0]}), "long_factor in rope_scaling"),
        (json!({"rope_type": "default", "mrope_section": [1, 2]}), "mrope_section in rope_scaling"),
        (json!({"rope_type": "default", "partial_rotary_factor": 0.5}), "but only 1 is supported"),
        (json!({"rope_type": "yarn", "factor": 4.0, "odd": 1}), "odd in rope_scaling of config"),
        (json!({"full_attention": {"rope_type": "default"}}), "full_attention in rope_scaling"),
        (json!({"line\nbreak": 1}), "line\\nbreak in rope_scaling of config.json is 1"),
        (json!({"type": "yarn", "factor": 4.0, "truncate": 1}), "truncate of config.json is 1"),
        (json!({"type": "yarn", "factor": 4.0, "attention_factor": 0}), "attention_factor is 0"),
        (
            json!({"type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1}),
            "low_freq_factor of config.json is 4, but it must be below high_freq_factor, 1",
        ),
    ] {
        let fixture = Fixture::of("llama");
        fixture.edit(CONFIG, |config| config["rope_scaling"] = scaling.clone()).refused(&[part]);
    }
    for (model, key, value) in [
        ("llama", "partial_rotary_factor", json!(0.25)),
        ("glm4-moe-lite", "rope_interleave", json!(false)),
    ] {
        Fixture::of(model).edit(CONFIG, |config| config[key] = value.clone()).refused(&[key]);
    }
}

// Qwen3 as published keeps its context beside a factor; other writers multiply it.
#[test]
fn a_factor_lengthens_the_context() {
    let yarn = |stated: u32, original: u32, factor: f64| {
        let fixture = Fixture::of("qwen3-yarn");
        fixture.edit(CONFIG, |config| {
            config["max_position_embeddings"] = json!(stated);
            config["rope_scaling"]["original_max_position_embeddings"] = json!(original);
            config["rope_scaling"]["factor"] = json!(factor);
        });
        let config = fixture.read().unwrap();
        (config.context_length, config.plain_context)
    };
    assert_eq!(yarn(1536, 1536, 4.0), (6144, 1536));
    assert_eq!(yarn(40_960, 32_768, 4.0), (131_072, 40_960));
    assert_eq!(yarn(131_072, 32_768, 4.0), (131_072, 32_768));
    assert_eq!(yarn(40_960, 32_768, 1.0), (40_960, 40_960));
    assert_eq!(yarn(1000, 1000, 3.3), (3300, 1000));
    assert_eq!(yarn(1 << 20, 1 << 20, 1e9), (u32::MAX, 1 << 20));
    let fixture = Fixture::of("llama");
    fixture.edit(CONFIG, |config| config["rope_scaling"] = json!({"type": "linear", "factor": 4}));
    assert_eq!(fixture.read().unwrap().context_length, 4096);
    // Its context is the longer one.
    assert_eq!(Fixture::of("llama3").read().unwrap().context_length, 1024);

    let long = |keys: Value| gguf(&keys, None).unwrap().context_length;
    assert_eq!(long(json!({"scaling.factor": 4.0})), 4096);
    assert_eq!(long(json!({"scale_linear": 2.0})), 2048);
    assert_eq!(long(json!({"scaling.type": "yarn", "scaling.factor": 4.0})), 4096);
    let yarn = json!({"scaling.type": "yarn", "scaling.factor": 4.0,
        "scaling.original_context_length": 128});
    assert_eq!(long(yarn), 1024);
}

#[test]
fn another_scaling_takes_the_place_of_the_file_s() {
    let change = |kind, factor, original| RopeChange { kind, factor, original };
    let read = |model: &str, change: RopeChange| {
        let file = ModelFile::open(&tiny(model).join("model")).unwrap();
        ModelConfig::read_changed(&file, Some(&change))
    };
    let context = |model, change| read(model, change).unwrap().context_length;
    // 2,048 positions.
    assert_eq!(context("qwen3", change(RopeKind::Yarn, 4.0, None)), 8192);
    assert_eq!(context("qwen3", change(RopeKind::Yarn, 4.0, Some(1536))), 6144);
    assert_eq!(context("qwen3", change(RopeKind::Yarn, 1.2, Some(1024))), 2048);
    assert_eq!(context("qwen3", change(RopeKind::Linear, 3.0, None)), 6144);
    assert_eq!(context("qwen3", change(RopeKind::None, 1.0, None)), 2048);
    // YaRN over 128 of 1,024 positions.
    assert_eq!(context("qwen3-yarn", change(RopeKind::Yarn, 16.0, None)), 2048);
    assert_eq!(context("glm4-moe-lite", change(RopeKind::None, 1.0, None)), 2048);

    // The same as a file that says so.
    let fixture = Fixture::of("qwen3");
    fixture.edit(CONFIG, |config| {
        config["rope_parameters"] = json!({"rope_type": "yarn", "factor": 4.0,
            "original_max_position_embeddings": 2048, "rope_theta": 1e6});
    });
    let said = fixture.read().unwrap();
    assert_eq!(read("qwen3", change(RopeKind::Yarn, 4.0, None)).unwrap(), said);

    for (model, change, part) in [
        ("glm4-moe-lite", change(RopeKind::Yarn, 4.0, None), "is yarn, but models with latent"),
        ("llama3", change(RopeKind::Yarn, 4.0, None), "is yarn, but this model was trained with"),
        ("llama3", change(RopeKind::None, 1.0, None), "is none, but this model was trained with"),
        ("qwen3", change(RopeKind::Linear, 0.5, None), "is linear by 0.5, but its factor must"),
        ("qwen3", change(RopeKind::Yarn, f32::NAN, None), "is yarn by NaN, but its factor"),
        ("qwen3", change(RopeKind::Yarn, 2.0, Some(0)), "is yarn over 0 tokens, but"),
        ("qwen3", change(RopeKind::None, 2.0, None), "is none by 2, but its factor"),
    ] {
        let message = read(model, change).unwrap_err().to_string();
        assert!(message.contains(part), "{model}: {message}");
    }
}
