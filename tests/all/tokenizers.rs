//! Tokenizers of the families qwen2, glm4, llama3, tekken and mistral, from a model folder and from a GGUF file, against ids that Hugging
//! Face's tokenizers computed. `tools/goldens/tokenizer_families.py` writes them.

mod careless;
mod refused;

use std::path::PathBuf;

use asynctls::model::{ChatTemplate, Gguf, Message, Tokenizer};
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    text: String,
    #[serde(flatten)]
    folder: Ids,
    /// Where llama.cpp's rules give others.
    gguf: Option<Ids>,
    /// Where it is not the text.
    decoded: Option<String>,
}

#[derive(Deserialize)]
struct Ids {
    ids: Vec<u32>,
    /// With control tokens recognised, where that makes a difference.
    ids_special: Option<Vec<u32>>,
}

impl Ids {
    fn check(&self, tokenizer: &Tokenizer, text: &str) {
        assert_eq!(tokenizer.encode(text, false).unwrap(), self.ids, "{text:?}");
        let special = self.ids_special.as_ref().unwrap_or(&self.ids);
        assert_eq!(&tokenizer.encode(text, true).unwrap(), special, "{text:?}, special");
    }
}

const FAMILIES: [&str; 5] = ["qwen2", "glm4", "llama3", "tekken", "mistral"];

fn folder(family: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/tokenizers").join(family)
}

fn from_folder(family: &str) -> Tokenizer {
    Tokenizer::from_folder(&folder(family)).unwrap()
}

fn from_gguf(family: &str) -> Tokenizer {
    Tokenizer::read(&Gguf::open(&folder(family).join("tokenizer.gguf")).unwrap()).unwrap()
}

fn goldens(family: &str) -> Vec<Case> {
    let text = std::fs::read_to_string(folder(family).join("goldens.json")).unwrap();
    let cases: Vec<Case> = serde_json::from_str(&text).unwrap();
    assert!(cases.len() > 100);
    cases
}

#[test]
fn a_folder_gives_the_references_ids() {
    for family in FAMILIES {
        let tokenizer = from_folder(family);
        goldens(family).iter().for_each(|case| case.folder.check(&tokenizer, &case.text));
    }
}

#[test]
fn a_gguf_file_gives_the_same_ids_without_normalising() {
    let mut others = 0;
    for family in FAMILIES {
        let tokenizer = from_gguf(family);
        for Case { text, folder, gguf, .. } in goldens(family) {
            others += usize::from(gguf.is_some());
            gguf.unwrap_or(folder).check(&tokenizer, &text);
        }
    }
    assert!(others > 0, "no text tells NFC from none");
}

#[test]
fn decoding_gives_the_references_text() {
    for family in FAMILIES {
        let tokenizer = from_folder(family);
        for Case { text, folder, decoded, .. } in goldens(family) {
            let expected = decoded.unwrap_or(text);
            for ids in [Some(&folder.ids), folder.ids_special.as_ref()].into_iter().flatten() {
                assert_eq!(tokenizer.decode(ids), expected);
                let mut decoder = tokenizer.decoder(false);
                let streamed: String = ids.iter().map(|&id| decoder.push(id)).collect();
                assert_eq!(streamed + &decoder.finish(), expected);
            }
        }
    }
}

#[test]
fn files_say_which_tokens_begin_and_end_texts() {
    for (family, stops) in [
        ("qwen2", &["<|endoftext|>", "<|im_end|>"][..]),
        ("glm4", &["<|endoftext|>", "<|user|>", "<|observation|>"]),
        ("llama3", &["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"]),
        ("tekken", &["</s>"]),
        ("mistral", &["</s>"]),
    ] {
        for (tokenizer, route) in [(from_folder(family), "folder"), (from_gguf(family), "GGUF")] {
            let size = tokenizer.vocabulary_size() as u32;
            let found: Vec<&str> = (0..size)
                .filter(|&id| tokenizer.is_stop(id))
                .map(|id| tokenizer.token(id).unwrap())
                .collect();
            assert_eq!(found, stops, "{family} {route}");
            let name = |id: Option<u32>| id.map(|id| tokenizer.token(id).unwrap());
            let (bos, eos) = match family {
                "qwen2" => (None, "<|im_end|>"),
                "glm4" => (None, "<|endoftext|>"),
                "llama3" => (Some("<|begin_of_text|>"), "<|eot_id|>"),
                _ => (Some("<s>"), "</s>"),
            };
            assert_eq!((name(tokenizer.bos()), name(tokenizer.eos())), (bos, Some(eos)));
            assert_eq!(tokenizer.leading(), tokenizer.bos().as_slice(), "{family} {route}");
            assert_eq!(tokenizer.warnings(), [] as [&str; 0]);
        }
    }
}

#[test]
fn whole_texts_begin_as_the_reference_has_them() {
    #[derive(Deserialize)]
    struct Begin {
        raw: Vec<Raw>,
        chat: Chat,
        /// Where llama.cpp's rules give others.
        gguf: Option<Box<Begin>>,
    }
    #[derive(Deserialize)]
    struct Raw {
        text: String,
        ids: Vec<u32>,
    }
    #[derive(Deserialize)]
    struct Chat {
        template: String,
        messages: Vec<Message>,
        ids: Vec<u32>,
    }
    for family in FAMILIES {
        let text = std::fs::read_to_string(folder(family).join("begin.json")).unwrap();
        let begin: Begin = serde_json::from_str(&text).unwrap();
        let llama = begin.gguf.as_deref().unwrap_or(&begin);
        let template = ChatTemplate::new(&begin.chat.template).unwrap();
        for (tokenizer, begin) in [(from_folder(family), &begin), (from_gguf(family), llama)] {
            let Begin { raw, chat, .. } = begin;
            for Raw { text, ids } in raw {
                let found = tokenizer.begin(tokenizer.encode(text, false).unwrap());
                assert_eq!(&found, ids, "{family} {text:?}");
            }
            let found = template.encode(&tokenizer, &chat.messages, "").unwrap();
            assert_eq!(found, chat.ids, "{family}");
        }
    }
}

// The folders of Mistral 7B v0.1 and v0.2, and of Llama 2: a marked space before every part, as llama.cpp has it.
#[test]
fn older_folders_mark_a_space_before_every_part() {
    let text = std::fs::read_to_string(folder("mistral").join("tokenizer.json")).unwrap();
    let mut file: serde_json::Value = serde_json::from_str(&text).unwrap();
    file["pre_tokenizer"] = serde_json::Value::Null;
    file["normalizer"] = serde_json::json!({"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]});
    let older = tempfile::tempdir().unwrap();
    std::fs::write(older.path().join("tokenizer.json"), file.to_string()).unwrap();
    let tokenizer = Tokenizer::from_folder(older.path()).unwrap();
    for Case { text, folder, gguf, .. } in goldens("mistral") {
        gguf.unwrap_or(folder).check(&tokenizer, &text);
    }
}

// Gemma's folders have no space before a text, and a rule that finds no space to cut at: all are marked by then.
#[test]
fn a_cut_at_spaces_that_are_marked_changes_nothing() {
    let text = std::fs::read_to_string(folder("mistral").join("tokenizer.json")).unwrap();
    let mut file: serde_json::Value = serde_json::from_str(&text).unwrap();
    file["normalizer"] =
        serde_json::json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    file["decoder"]["decoders"].as_array_mut().unwrap().pop();
    let mut read = |step: serde_json::Value| {
        file["pre_tokenizer"] = step;
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("tokenizer.json"), file.to_string()).unwrap();
        Tokenizer::from_folder(folder.path())
    };
    let plain = read(serde_json::Value::Null).unwrap();
    let cut = |at: &str| {
        serde_json::json!({"type": "Split", "pattern": {"String": at}, "behavior": "MergedWithPrevious",
            "invert": false})
    };
    let gemma = read(cut(" ")).unwrap();
    for Case { text, .. } in goldens("mistral") {
        let ids = gemma.encode(&text, false).unwrap();
        assert_eq!(ids, plain.encode(&text, false).unwrap(), "{text:?}");
    }
    let refused = read(cut("-")).unwrap_err().to_string();
    assert!(refused.contains("the pre-tokenizer is not \"Metaspace\" or none"), "{refused}");
}

#[test]
fn thoughts_are_shown_and_control_tokens_are_not() {
    for family in ["qwen2", "glm4"] {
        let tokenizer = from_folder(family);
        let ids = tokenizer.encode("<think>so</think>yes<|endoftext|>", true).unwrap();
        let mut decoder = tokenizer.decoder(true);
        let shown: String = ids.iter().map(|&id| decoder.push(id)).collect();
        assert_eq!(shown, "<think>so</think>yes");
    }
}
