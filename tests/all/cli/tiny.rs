//! A tiny random model with a tokenizer of single bytes, which answers in no time what means nothing.

use super::program::{Run, command, run_command, text};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

const MODELS: &str = "tests/goldens/tiny";
/// Each message on a line of its own, as a test can read it.
const TEMPLATE: &str = "{% if tools %}{{ tools | tojson }}<|end|>{% endif %}{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\
    {% for call in m.tool_calls %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}<|end|>{% endfor %}a:";

/// The model's folder.
pub struct Tiny(TempDir);

impl Tiny {
    /// With this `generation_config.json`.
    pub fn new(generation: &Value) -> Self {
        Self::of("qwen3", generation)
    }

    /// With the weights of another tiny model.
    pub fn of(model: &str, generation: &Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let to = |name: &str| folder.path().join(name);
        for entry in fs::read_dir(Path::new(MODELS).join(model).join("model")).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), to(entry.file_name().to_str().unwrap())).unwrap();
        }
        let config = fs::read_to_string(to("config.json")).unwrap();
        let mut config: Value = serde_json::from_str(&config).unwrap();
        config["eos_token_id"] = json!(256);
        config["bos_token_id"] = Value::Null;
        write(&to("config.json"), &config);
        write(&to("generation_config.json"), generation);
        write(
            &to("tokenizer_config.json"),
            &json!({"eos_token": "<|end|>", "add_bos_token": false}),
        );
        write(&to("tokenizer.json"), &tokenizer());
        fs::write(to("chat_template.jinja"), TEMPLATE).unwrap();
        Self(folder)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Runs `asynctls generate` with it and `input` on standard input.
    pub fn generate_from(&self, arguments: &[&str], input: &[u8]) -> Run {
        let model = ["generate", "--model", text(self.path())];
        run_command(command(&[&model, arguments].concat()), input)
    }

    /// Runs `asynctls generate` with it.
    pub fn generate(&self, arguments: &[&str]) -> Run {
        self.generate_from(arguments, b"")
    }
}

fn write(path: &Path, value: &Value) {
    fs::write(path, value.to_string()).unwrap();
}

// A token for each byte, spelled as byte-level BPE spells bytes; one more ends a message.
fn tokenizer() -> Value {
    let mut vocabulary = serde_json::Map::new();
    let mut beyond = 256u32;
    for byte in 0..=255u8 {
        let is_shown = matches!(byte, 33..=126 | 161..=172 | 174..=255);
        let symbol = if is_shown {
            byte.into()
        } else {
            beyond += 1;
            beyond - 1
        };
        vocabulary.insert(char::from_u32(symbol).unwrap().to_string(), byte.into());
    }
    // There must be a merge: of the bytes 0 and 1.
    vocabulary.insert("\u{100}\u{101}".into(), 257.into());
    let level = |add: bool| json!({"type": "ByteLevel", "add_prefix_space": add, "trim_offsets": false, "use_regex": false});
    let split = json!({"type": "Split", "behavior": "Isolated", "invert": false, "pattern": {"Regex":
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [{"id": 256, "content": "<|end|>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true}],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level(false)]},
        "post_processor": level(false), "decoder": level(false),
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary, "merges": ["\u{100} \u{101}"]},
    })
}
