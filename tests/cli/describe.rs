//! `asynctls adapters`, `asynctls inspect` and `asynctls --help`.

use super::gguf_builder::GgufBuilder;
use super::program::{command, model, run, run_command, text};

#[test]
fn adapters_are_listed() {
    let list = run(&["adapters", "--json"]).fine().json();
    let list = list.as_array().unwrap();
    assert!(!list.is_empty());
    for (index, adapter) in list.iter().enumerate() {
        assert_eq!(adapter["index"], index);
        for key in ["name", "backend", "kind", "driver"] {
            assert!(adapter[key].is_string(), "{key}: {adapter}");
        }
        assert!(adapter["tier"].is_string() != adapter["unusable"].is_string(), "{adapter}");
        assert!(adapter["max_binding_bytes"].is_u64(), "{adapter}");
    }
    let table = run(&["adapters"]).fine().out;
    for adapter in list {
        assert!(table.contains(adapter["name"].as_str().unwrap()), "{table}");
    }
}

#[test]
fn kernels_without_subgroups_can_be_asked_for() {
    let mut portable = command(&["adapters", "--json"]);
    portable.env("ASYNCTLS_DISABLE", "subgroups");
    let list = run_command(portable, b"").fine().json();
    for adapter in list.as_array().unwrap().iter().filter(|a| a["unusable"].is_null()) {
        assert_eq!(adapter["tier"], "portable");
    }
}

#[test]
fn a_model_is_inspected() {
    let model = model();
    let found = run(&["inspect", &model, "--json"]).fine().json();
    assert_eq!(found["architecture"], "llama");
    assert_eq!((&found["runs"], &found["problem"]), (&true.into(), &serde_json::Value::Null));
    assert_eq!(found["context_length"], 8192);
    assert_eq!(found["shapes"]["block_count"], 30);
    assert_eq!(found["shapes"]["attention.layer_norm_rms_epsilon"], 1e-5);
    assert_eq!(found["kv_bytes_a_token"], 30 * 3 * 64 * 2 * 2);
    // A header of 16 words a block of 64, and 16 codes of 4 bits.
    assert_eq!(found["index_bytes_a_token"], 30 * 3 * (16 * 4 / 64 + 16 / 2));
    assert_eq!(found["chat_template"], true);
    assert_eq!(found["tokenizer"]["tokens"], 49152);
    assert_eq!(found["tokenizer"]["problem"], serde_json::Value::Null);
    let bytes: u64 =
        found["weights"].as_array().unwrap().iter().map(|w| w["bytes"].as_u64().unwrap()).sum();
    let file_bytes = found["file_bytes"].as_u64().unwrap();
    assert!(bytes < file_bytes && bytes > file_bytes * 9 / 10, "{found}");

    let shown = run(&["inspect", &model]).fine().out;
    for part in ["llama", "8192 tokens", "Q4_1", "23040 bytes a token", "49152 tokens", "can run"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
}

#[test]
fn a_model_that_cannot_run_is_inspected_too() {
    let bytes = GgufBuilder::new(3)
        .string("general.architecture", "mamba")
        .string("general.name", "\u{1b}[31mred")
        .u32("mamba.context_length", 512)
        .tensor("token_embd.weight", &[32, 2], 0, &[0; 256])
        .build();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let found = run(&["inspect", text(file.path()), "--json"]).fine().json();
    assert_eq!((&found["architecture"], &found["runs"]), (&"mamba".into(), &false.into()));
    assert_eq!(
        found["problem"],
        "the architecture is mamba, but only llama, qwen3, qwen3moe, deepseek2 are supported"
    );
    assert_eq!(found["context_length"], 512);
    assert_eq!(found["weights"][0]["weights"], 64);
    assert_eq!(found["kv_bytes_a_token"], serde_json::Value::Null);
    assert_eq!(found["chat_template"], false);

    let shown = run(&["inspect", text(file.path())]).fine().out;
    assert!(shown.contains("no: the architecture is mamba"), "{shown}");
    assert!(!shown.contains('\u{1b}'), "a name cannot command the terminal: {shown:?}");

    let refused = run(&["generate", "--model", text(file.path()), "--prompt", "Hi"]);
    assert_eq!(refused.code, Some(2));
    assert!(refused.error().contains("mamba"), "{}", refused.error());
}

#[test]
fn help_has_examples() {
    assert!(run(&["--version"]).fine().out.starts_with("asynctls 0."));
    for arguments in [&["--help"][..], &["generate", "--help"], &["logits", "--help"]] {
        let help = run(arguments).fine().out;
        assert!(help.contains("Examples:") && help.contains("--adapter"), "{help}");
    }
}
