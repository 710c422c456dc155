//! `config.json`: missing, malformed, absurd, or of another model than the weights.

use super::fixture::{CONFIG, Fixture, bounded, tiny};
use crate::common::gguf_builder::GgufBuilder;
use asynctls::model::{Gguf, ModelConfig, Value as GgufValue};
use serde_json::{Value, json};

const SOUND: [&str; 10] = [
    "llama",
    "llama3",
    "qwen2",
    "qwen3",
    "qwen3-yarn",
    "qwen3-moe",
    "glm4-moe-lite",
    "mistral",
    "qwen2-windows",
    "gemma2",
];

#[test]
fn the_sound_ones_are_read() {
    for name in SOUND {
        assert!(Fixture::of(name).read().is_ok(), "{name}");
    }
}

#[test]
fn what_is_no_description_is_refused() {
    let fixture = Fixture::of("llama");
    std::fs::remove_file(fixture.path(CONFIG)).unwrap();
    fixture.refused(&["cannot read", "config.json"]);
    std::fs::create_dir(fixture.path(CONFIG)).unwrap();
    fixture.refused(&["cannot read", "config.json"]);
    std::fs::remove_dir(fixture.path(CONFIG)).unwrap();
    let known = "LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM, Qwen3MoeForCausalLM, \
                 Gemma2ForCausalLM, Glm4MoeLiteForCausalLM";
    for (content, parts) in [
        ("", &["config.json: EOF"][..]),
        ("{\"architectures\": [", &["config.json: EOF", "line 1 column 19"]),
        ("GGUF\u{3}", &["config.json: expected value"]),
        (&"[".repeat(100_000), &["config.json: recursion limit"]),
        ("[]", &["config.json", "names no architecture"]),
        ("null", &["config.json", "names no architecture"]),
        ("{}", &["config.json", "names no architecture"]),
        (r#"{"architectures": []}"#, &["names no architecture"]),
        (r#"{"architectures": "LlamaForCausalLM"}"#, &["names no architecture"]),
        (r#"{"architectures": [7]}"#, &["names no architecture"]),
        (r#"{"architectures": ["MambaForCausalLM"]}"#, &["is MambaForCausalLM, but only", known]),
        (r#"{"architectures": ["LlamaForCausalLM"]}"#, &["hidden_size of config.json is missing"]),
    ] {
        fixture.write(CONFIG, content).refused(parts);
    }
    let long = json!({"architectures": ["x".repeat(1 << 20)]});
    fixture.write(CONFIG, long.to_string()).refused(&["xxx, but only", known]);
    // Sparse: it takes no room on the disk.
    std::fs::File::create(fixture.path(CONFIG)).unwrap().set_len((64 << 20) + 1).unwrap();
    let error = asynctls::model::ModelFile::open(fixture.path("").as_path()).unwrap_err();
    assert!(error.to_string().contains("config.json: it has more than 67108864 bytes"), "{error}");
}

/// A model, a key, what is put there, and what the error says.
type Case = (&'static str, &'static str, Value, &'static str);

#[test]
fn absurd_values_are_refused_by_name() {
    let cases: &[Case] = &[
        ("llama", "hidden_size", json!(0), "hidden_size of config.json is 0, but 1 to"),
        ("llama", "hidden_size", json!(-96), "hidden_size of config.json is -96"),
        ("llama", "hidden_size", json!(1e20), "hidden_size of config.json is 1e+20"),
        ("llama", "hidden_size", json!(1u64 << 32), "hidden_size of config.json is 4294967296"),
        ("llama", "hidden_size", json!("96"), "hidden_size of config.json is \"96\""),
        ("llama", "hidden_size", json!(null), "hidden_size of config.json is missing"),
        (
            "llama",
            "hidden_size",
            json!(64),
            "input_layernorm.weight has shape [96], but [64] is needed",
        ),
        ("llama", "num_hidden_layers", json!(1 << 20), "no tensor model.layers.2."),
        ("llama", "num_attention_heads", json!(5), "5 query heads cannot share 2 KV heads evenly"),
        (
            "llama",
            "num_attention_heads",
            json!(1 << 20),
            "query heads share a KV head, but 1 to 32",
        ),
        ("llama", "num_key_value_heads", json!(4), "6 query heads cannot share 4 KV heads evenly"),
        ("llama", "num_key_value_heads", json!(12), "share a KV head, but 1 to 32"),
        ("llama", "head_dim", json!(33), "the head dimension is 33, but 32,"),
        ("llama", "rms_norm_eps", json!(-1e-5), "rms_norm_eps of config.json is -0.00001"),
        ("llama", "rms_norm_eps", json!(0), "rms_norm_eps of config.json is 0"),
        ("llama", "rope_theta", json!(0), "rope_theta of config.json is 0, but it must be"),
        ("llama", "rope_theta", json!("NaN"), "rope_theta of config.json is \"NaN\""),
        ("llama", "rope_theta", json!(1e39), "rope_theta of config.json is inf"),
        ("llama", "rope_scaling", json!({"type": "dynamic"}), "RoPE scaling dynamic is not"),
        ("llama", "rope_scaling", json!({"rope_type": 7}), "rope_type of config.json is 7"),
        ("llama", "rope_scaling", json!("yarn"), "rope_scaling of config.json is \"yarn\""),
        ("llama", "rope_scaling", json!({"type": "linear"}), "factor is missing"),
        ("llama", "rope_scaling", json!({"type": "linear", "factor": 0}), "factor is 0"),
        ("llama", "max_position_embeddings", json!(0), "max_position_embeddings of config.json"),
        ("llama", "attention_bias", json!(true), "attention_bias of config.json is true"),
        ("llama", "hidden_act", json!("gelu"), "hidden_act of config.json is \"gelu\""),
        ("llama", "num_experts", json!(4), "the model has 4 experts"),
        ("llama", "tie_word_embeddings", json!("no"), "tie_word_embeddings of config.json is"),
        ("llama", "tie_word_embeddings", json!(false), "the model has no tensor lm_head.weight"),
        ("llama", "use_sliding_window", json!(true), "use_sliding_window of config.json is true"),
        ("mistral", "sliding_window", json!(0), "sliding_window of config.json is 0, but a window"),
        ("mistral", "sliding_window", json!(-1), "sliding_window of config.json is -1, but an"),
        ("mistral", "sliding_window", json!("51"), "sliding_window of config.json is \"51\""),
        (
            "mistral",
            "layer_types",
            json!(["sliding_attention", "full_attention", "sliding_attention"]),
            "layer_types of config.json is \"full_attention\", but \"sliding_attention\" in every",
        ),
        (
            "gemma2",
            "hidden_activation",
            json!("gelu"),
            "hidden_activation of config.json is \"gelu\"",
        ),
        ("gemma2", "query_pre_attn_scalar", json!(0), "query_pre_attn_scalar of config.json is 0"),
        ("gemma2", "attn_logit_softcapping", json!(-1), "attn_logit_softcapping of config.json is"),
        ("gemma2", "attn_logit_softcapping", json!(1e9), "the soft-cap of attention's logits is"),
        ("gemma2", "final_logit_softcapping", json!(1e9), "the soft-cap of the model's logits is"),
        ("gemma2", "use_bidirectional_attention", json!(true), "use_bidirectional_attention of"),
        ("qwen2-windows", "use_sliding_window", json!(1), "use_sliding_window of config.json is 1"),
        ("qwen2-windows", "max_window_layers", json!(-1), "max_window_layers of config.json is -1"),
        ("qwen2-windows", "sliding_window", json!(0), "sliding_window of config.json is 0"),
        (
            "qwen2-windows",
            "layer_types",
            json!(["sliding_attention"]),
            "layer_types lists 1 layers, but the model has 3 layers",
        ),
        (
            "qwen2-windows",
            "layer_types",
            json!(["full_attention", "chunked_attention", "full_attention"]),
            "is \"chunked_attention\", but \"full_attention\" or \"sliding_attention\" is supported",
        ),
        ("qwen2", "num_key_value_heads", json!(1), "k_proj.weight has shape [128, 64], but"),
        ("qwen3-moe", "num_experts", json!(1_000_000_000), "num_experts of config.json is 1000"),
        ("qwen3-moe", "num_experts", json!(1 << 20), "has 1048576 experts, but 1 to 512"),
        ("qwen3-moe", "num_experts", json!(11), "mlp.gate.weight has shape [64, 10], but [64, 11]"),
        ("qwen3-moe", "num_experts_per_tok", json!(11), "uses 11 of 10 experts"),
        ("qwen3-moe", "decoder_sparse_step", json!("1"), "decoder_sparse_step of config.json is"),
        ("qwen3-moe", "decoder_sparse_step", json!(0), "decoder_sparse_step of config.json is 0"),
        ("qwen3-moe", "mlp_only_layers", json!([-1]), "must be a list of layers"),
        ("qwen3-moe", "norm_topk_prob", json!("true"), "norm_topk_prob of config.json is"),
        (
            "qwen3",
            "layer_types",
            json!(["full_attention", "sliding_attention"]),
            "layer_types of config.json is \"sliding_attention\", but \"full_attention\" in every layer",
        ),
        ("qwen3", "layer_types", json!("full_attention"), "but a list is supported"),
        ("glm4-moe-lite", "q_lora_rank", json!(null), "no latent (q_lora_rank)"),
        ("glm4-moe-lite", "kv_lora_rank", json!(65), "the head dimension is 97"),
        ("glm4-moe-lite", "v_head_dim", json!(32), "values have 32 dimensions and queries 64"),
        ("glm4-moe-lite", "n_group", json!(2), "n_group of config.json is 2, but only 1"),
        ("glm4-moe-lite", "n_shared_experts", json!(2), "2 shared experts, but at most one"),
        ("glm4-moe-lite", "num_attention_heads", json!(33), "1 to 32"),
        ("glm4-moe-lite", "routed_scaling_factor", json!(1e39), "multiplied by inf"),
        ("glm4-moe-lite", "mlp_layer_types", json!(["dense"]), "a list of 3 times"),
        ("glm4-moe-lite", "mlp_layer_types", json!(["dense", "sparse", "odd"]), "a list of 3"),
        ("glm4-moe-lite", "mlp_layer_types", json!("sparse"), "a list of 3 times"),
        ("glm4-moe-lite", "num_hidden_layers", json!(4), "mlp_layer_types of config.json"),
    ];
    for (model, key, value, message) in cases {
        let fixture = Fixture::of(model);
        fixture.edit(CONFIG, |config| config[*key] = value.clone()).refused(&[message]);
    }
}

#[test]
fn heads_of_80_dimensions_are_taken_where_they_fill_units_of_weights() {
    let fixture = Fixture::of("llama");
    fixture.edit(CONFIG, |config| config["head_dim"] = json!(80));
    fixture.refused(&["q_proj.weight has shape", "[96, 480]"]);
    fixture.edit(CONFIG, |config| {
        config["num_attention_heads"] = json!(3);
        config["num_key_value_heads"] = json!(3);
    });
    fixture.refused(&["the heads' values are 240 numbers together, but a multiple of 32"]);
}

#[test]
fn scaling_that_divides_by_zero_is_refused() {
    let fixture = Fixture::of("qwen3-yarn");
    fixture.edit(CONFIG, |config| {
        config["rope_theta"] = json!(1);
        config["rope_scaling"]["original_max_position_embeddings"] = json!(1024);
    });
    fixture.refused(&["base 1, Yarn"]);
}

#[test]
fn long_lists_do_not_take_long() {
    let fixture = Fixture::of("qwen3-moe");
    let dense: Vec<u32> = (0..100_000).map(|i| 3 + i).collect();
    fixture.edit(CONFIG, |config| {
        config["mlp_only_layers"] = json!(dense);
        config["num_hidden_layers"] = json!(1 << 20);
    });
    fixture.refused(&["mlp.gate.weight"]);
}

// transformers 5 writes num_local_experts, dtype, rope_parameters and layer_types.
#[test]
fn what_transformers_5_writes_is_the_same_model() {
    for model in SOUND {
        let fixture = Fixture::of(model);
        let before = fixture.read().unwrap();
        let saved = std::fs::read(tiny(model).join("config.transformers-5.json")).unwrap();
        assert_eq!(fixture.write(CONFIG, saved).read().unwrap(), before, "{model}");
    }
    let fixture = Fixture::of("qwen3-moe");
    fixture.edit(CONFIG, |config| config["num_local_experts"] = json!(9));
    fixture.refused(&["num_local_experts of config.json is 9, but num_experts", "is 10"]);
    fixture.edit(CONFIG, |config| config["num_experts"] = json!(null));
    fixture.refused(&["mlp.gate.weight has shape [64, 10], but [64, 9]"]);
    let fixture = Fixture::of("llama");
    fixture.edit(CONFIG, |config| config["num_local_experts"] = json!(8));
    fixture.refused(&["the model has 8 experts"]);
}

/// The sliding windows of layers, as a model's description is printed.
fn windows(config: &ModelConfig) -> Value {
    serde_json::to_value(config).unwrap()["sliding_window"].take()
}

/// A model, keys with what is put there, and the sliding windows that it then has.
type Windowed<'c> = (&'c str, &'c [(&'c str, Value)], Value);

#[test]
fn sliding_windows_are_those_of_transformers() {
    let window = |tokens: u32, layers: &[bool]| json!({"tokens": tokens, "layers": layers});
    let (every, later) = (&[true; 3], &[false, true, true]);
    let cases: &[Windowed<'_>] = &[
        ("mistral", &[], window(51, every)),
        ("mistral", &[("sliding_window", json!(null))], json!(null)),
        ("mistral", &[("sliding_window", json!(1))], window(1, every)),
        ("qwen2-windows", &[], window(20, later)),
        ("qwen2-windows", &[("use_sliding_window", json!(false))], json!(null)),
        ("qwen2-windows", &[("sliding_window", json!(null))], json!(null)),
        ("qwen2-windows", &[("max_window_layers", json!(0))], window(20, every)),
        ("qwen2-windows", &[("max_window_layers", json!(null))], json!(null)),
        (
            "qwen2-windows",
            &[("layer_types", json!(["sliding_attention", "full_attention", "sliding_attention"]))],
            window(20, &[true, false, true]),
        ),
        ("gemma2", &[], window(37, &[true, false, true, false])),
        ("gemma2", &[("sliding_window", json!(null))], json!(null)),
        ("qwen2", &[], json!(null)),
        ("qwen3", &[("use_sliding_window", json!(true))], json!(null)),
        // With experts windows are everywhere, whatever else is said.
        (
            "qwen3-moe",
            &[("use_sliding_window", json!(true)), ("sliding_window", json!(70))],
            window(70, every),
        ),
        ("llama", &[("sliding_window", json!(70))], json!(null)),
    ];
    for (model, changes, expected) in cases {
        let fixture = Fixture::of(model);
        fixture.edit(CONFIG, |config| {
            for (key, value) in *changes {
                config[*key] = value.clone();
            }
        });
        let read = fixture.read().unwrap();
        assert_eq!(windows(&read), *expected, "{model} {changes:?}");
    }
    // transformers' own number, where a config does not say.
    let fixture = Fixture::of("mistral");
    fixture.edit(CONFIG, |config| drop(config.as_object_mut().unwrap().remove("sliding_window")));
    assert_eq!(windows(&fixture.read().unwrap()), window(4096, every));
}

// What transformers takes where a config does not say, and that null is none.
#[test]
fn gemma_s_soft_caps_and_scale_are_those_of_transformers() {
    let read = |change: fn(&mut serde_json::Map<String, Value>)| {
        let fixture = Fixture::of("gemma2");
        fixture.edit(CONFIG, |config| change(config.as_object_mut().unwrap()));
        let config = fixture.read().unwrap();
        let shape = config.shape();
        let printed = serde_json::to_value(config).unwrap();
        (shape.scaled_by, shape.softcap, printed["logit_softcap"].as_f64())
    };
    assert_eq!(read(|_| ()), (32, Some(8.0), Some(10.0)));
    let silent = read(|config| {
        config.remove("query_pre_attn_scalar");
        config.remove("attn_logit_softcapping");
        config.remove("final_logit_softcapping");
    });
    assert_eq!(silent, (256, Some(50.0), Some(30.0)));
    let none = read(|config| {
        config.insert("query_pre_attn_scalar".into(), json!(24));
        config.insert("attn_logit_softcapping".into(), json!(null));
        config.insert("final_logit_softcapping".into(), json!(null));
    });
    assert_eq!(none, (24, None, None));
}

#[test]
fn sliding_windows_of_gguf_files() {
    let with = |model: &str, key: &str, value: u32| {
        let file = Gguf::open(&tiny(model).join("model.gguf")).unwrap();
        let mut builder = GgufBuilder::new(3);
        for (other, value) in file.metadata().filter(|(other, _)| *other != key) {
            builder = builder.value(other, value);
        }
        builder = builder.value(key, &GgufValue::U32(value));
        for tensor in file.tensors() {
            let bytes = file.bytes(tensor);
            builder = builder.tensor(&tensor.name, &tensor.shape, tensor.kind.id(), bytes);
        }
        let bytes = builder.build();
        bounded(|| ModelConfig::read(&Gguf::from_bytes("some.gguf".as_ref(), bytes)?.into()))
    };
    // A Mistral's.
    let key = "llama.attention.sliding_window";
    let layers = |count: usize| vec![true; count];
    assert_eq!(windows(&with("llama", key, 70).unwrap())["layers"], json!(layers(2)));
    assert_eq!(windows(&with("mistral", key, 70).unwrap())["tokens"], 70);
    assert_eq!(windows(&with("mistral", key, 0).unwrap()), json!(null));
    let refused = with("mistral", "llama.attention.sliding_window_pattern", 6).unwrap_err();
    assert!(refused.contains("sliding_window_pattern is 6, but only 1"), "{refused}");
    // llama.cpp knows none of Qwen's.
    for model in ["qwen2", "qwen3"] {
        let key = format!("{model}.attention.sliding_window");
        assert!(with(model, &key, 0).is_ok());
        let refused = with(model, &key, 4096).unwrap_err();
        assert!(refused.contains(&format!("{key} is 4096, but only 0")), "{refused}");
    }
}
