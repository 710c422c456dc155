//! `asynctls adapters`, `asynctls inspect` and `asynctls --help`.

use super::program::{command, model, run, run_command, text};
use crate::common::gguf_builder::GgufBuilder;

#[test]
fn adapters_are_listed() {
    let list = run(&["adapters", "--json"]).fine().json();
    let list = list["adapters"].as_array().unwrap();
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

// What NVIDIA's driver does with wgpu's request, Mesa does when it is told to.
#[test]
fn a_gl_context_whose_language_has_no_compute_shaders_is_not_used() {
    let mut old = command(&["adapters", "--json"]);
    old.env("MESA_GL_VERSION_OVERRIDE", "3.3");
    let list = run_command(old, b"").fine().json();
    let is_mesa = |adapter: &&serde_json::Value| {
        adapter["backend"] == "gl" && adapter["driver"].as_str().unwrap().contains("Mesa")
    };
    for adapter in list["adapters"].as_array().unwrap().iter().filter(is_mesa) {
        let why = adapter["unusable"].as_str().unwrap();
        assert!(why.contains("GL context is 3.3") && why.contains("by Vulkan or DX12"), "{why}");
    }
}

#[test]
fn kernels_without_subgroups_can_be_asked_for() {
    let mut portable = command(&["adapters", "--json"]);
    portable.env("ASYNCTLS_DISABLE", "subgroups");
    let list = run_command(portable, b"").fine().json();
    for adapter in list["adapters"].as_array().unwrap().iter().filter(|a| a["unusable"].is_null()) {
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
    for part in [
        "llama",
        "8192 tokens",
        "Q4_1",
        "23040 bytes a token",
        "49152 tokens",
        "can run",
        "\nKV cache ",
    ] {
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
        "the architecture is mamba, but only llama, qwen2, qwen3, qwen3moe, gemma2, deepseek2 are supported"
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

/// A folder with the weights of a tiny model, a tokenizer, and these files besides or instead.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for from in ["tests/goldens/tiny/qwen3/model", "tests/goldens/tokenizers/qwen2"] {
        for entry in std::fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}

#[test]
fn what_generate_refuses_cannot_run() {
    let fine = "{% for m in messages %}{{ m.content }}{% endfor %}";
    let config = std::fs::read_to_string("tests/goldens/tiny/qwen3/model/config.json").unwrap();
    let layers = config.replace("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 4");
    assert_ne!(config, layers);
    for (files, problem) in [
        (&[][..], None),
        (&[("chat_template.jinja", fine)], None),
        (&[("chat_template.jinja", "{% if %}")], Some("chat_template.jinja: the chat template")),
        (
            &[("chat_template.jinja", "{{ messages | nothing }}")],
            Some("the chat template (line 1): "),
        ),
        (&[("chat_template.jinja", "{{ raise_exception('No.') }}")], Some("(line 1): No.")),
        (&[("tokenizer.json", r#"{"model": {"type": "Unigram"}}"#)], Some("\"Unigram\"")),
        (&[("config.json", &layers)], Some("the model has no tensor")),
    ] {
        let folder = folder(files);
        let path = text(folder.path());
        let found = run(&["inspect", path, "--json"]).fine().json();
        assert_eq!(found["runs"], problem.is_none(), "{files:?}: {found}");
        let shown = run(&["inspect", path]).fine().out;
        let last = shown.lines().last().unwrap();
        let Some(problem) = problem else {
            assert!(last.starts_with("can run") && last.ends_with(" yes"), "{last}");
            continue;
        };
        assert!(found["problem"].as_str().unwrap().contains(problem), "{files:?}: {found}");
        assert!(last.contains("no: ") && last.contains(problem), "{last}");
        let refused = run(&["generate", "--model", path, "--prompt", "Hi", "--max-tokens", "1"]);
        assert_eq!(refused.code, Some(2), "{files:?}: {refused:?}");
        assert!(refused.error().contains(problem), "{files:?}: {}", refused.error());
    }
}

#[test]
fn an_odd_vocabulary_is_told() {
    let vocabulary = "tests/goldens/tokenizers/qwen2/tokenizer.json";
    let sound: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(vocabulary).unwrap()).unwrap();
    let mut odd = sound;
    for token in odd["added_tokens"].as_array_mut().unwrap() {
        token["special"] = false.into();
    }
    let folder = folder(&[("tokenizer.json", &odd.to_string())]);
    let path = text(folder.path());
    let part = "the vocabulary calls \"<|endoftext|>\" (1502) user-defined";
    let found = run(&["inspect", path, "--json"]).fine().json();
    assert_eq!(found["runs"], true);
    assert!(found["tokenizer"]["warnings"][0].as_str().unwrap().starts_with(part), "{found}");
    let shown = run(&["inspect", path]).fine().out;
    assert!(shown.contains(part), "{shown}");
    let told = run(&["generate", "--model", path, "--raw", "--prompt", "!", "--max-tokens", "1"]);
    assert!(told.fine().err.contains(&format!("note: {part}")));
}

#[test]
fn a_broken_template_can_be_replaced() {
    let folder = folder(&[
        ("chat_template.jinja", "{% if %}"),
        ("good.jinja", "\u{FEFF}{{ messages[0].content }}"),
    ]);
    let (path, good) = (text(folder.path()), folder.path().join("good.jinja"));
    let ask = |more: &[&str]| {
        run(&[&["generate", "--model", path, "--prompt", "!", "--max-tokens", "1"], more].concat())
    };
    let refused = ask(&[]);
    assert!(
        refused.error().ends_with("; --chat-template FILE takes another one, and --raw none"),
        "{refused:?}"
    );
    let report = ask(&["--json", "--chat-template", text(&good)]).fine().json();
    assert_eq!((&report["prompt_tokens"], &report["settings"]["raw"]), (&1.into(), &false.into()));
    assert_eq!(report["settings"]["chat_template"], text(&good));
    for (more, part) in [
        (&["--chat-template", "no/such/file"][..], "cannot read no/such/file"),
        (
            &["--chat-template", &format!("{path}/chat_template.jinja")],
            "chat_template.jinja: the chat template (line 1)",
        ),
        (&["--chat-template", text(&good), "--raw"], "cannot be used with"),
    ] {
        let refused = ask(more);
        assert_eq!(refused.code, Some(2), "{more:?}");
        assert!(refused.error().contains(part), "{more:?}: {}", refused.error());
    }
}

#[test]
fn help_has_examples() {
    assert!(run(&["--version"]).fine().out.starts_with("asynctls 0."));
    for arguments in [&["--help"][..], &["generate", "--help"], &["logits", "--help"]] {
        let help = run(arguments).fine().out;
        assert!(help.contains("Examples:") && help.contains("--adapter"), "{help}");
    }
}

#[test]
fn without_a_desktop_nothing_is_said_but_what_this_program_says() {
    let mut headless = command(&["adapters"]);
    headless.env_remove("XDG_RUNTIME_DIR").env_remove("WAYLAND_DISPLAY");
    let run = run_command(headless, b"").fine();
    assert_eq!(run.err, "");
    // That work is done by a CPU is said once.
    let mut headless =
        command(&["logits", "--model", "tests/goldens/tiny/llama/model", "--ids", "1"]);
    headless.env_remove("XDG_RUNTIME_DIR").env_remove("WAYLAND_DISPLAY");
    let run = run_command(headless, b"").fine();
    let notes = run.err.lines().filter(|line| line.contains(" is a CPU, ")).count();
    let adapter = run.err.contains("vulkan:llvmpipe") || notes == 0;
    assert!(notes <= 1 && adapter && !run.err.contains("error"), "{}", run.err);
}
