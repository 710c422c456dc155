//! Model folders that are broken: one error each, which names the file and what is wrong there.

use std::fs;
use std::path::Path;

use asynctls::Error;
use asynctls::model::Tokenizer;
use serde_json::{Value, json};
use tempfile::TempDir;

/// All bytes, one merge, one control token; what else a published file has.
fn sound() -> Value {
    let plain = (0x21..=0x7Eu32).chain(0xA1..=0xAC).chain(0xAE..=0xFF).chain(0x100..=0x143);
    let mut vocab: serde_json::Map<String, Value> = plain
        .enumerate()
        .map(|(id, code)| (char::from_u32(code).unwrap().to_string(), json!(id)))
        .collect();
    vocab.insert("he".into(), json!(256));
    json!({
        "version": "1.0",
        "added_tokens": [{"id": 257, "content": "<end>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": true},
            {"type": "Split", "pattern": {"String": "-"}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": ["h e"]},
    })
}

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}

fn refusal(path: &Path) -> String {
    match Tokenizer::from_folder(path) {
        Err(error @ (Error::Model(_) | Error::Io { .. })) => error.to_string(),
        other => panic!("{other:?} is not a refusal"),
    }
}

fn expect(files: &[(&str, &str)], parts: &[&str]) {
    let message = refusal(folder(files).path());
    for part in parts {
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
}

#[test]
fn the_sound_one_is_not_refused() {
    let folder = folder(&[("tokenizer.json", &sound().to_string())]);
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    let ids = tokenizer.encode("e\u{301}he12<end>", true).unwrap();
    let spelled: Vec<&str> = ids.iter().map(|&id| tokenizer.token(id).unwrap()).collect();
    assert_eq!(spelled, ["Ã", "©", "he", "1", "2", "<end>"]);
    assert_eq!(tokenizer.vocabulary_size(), 258);
}

#[test]
fn broken_vocabularies() {
    type Change = fn(&mut Value);
    let cases: [(&str, Change); 27] = [
        ("the type of the model is \"Unigram\", but only BPE, of bytes", |f| {
            f["model"] = json!({"type": "Unigram", "vocab": [["a", -1.5]]})
        }),
        ("the type of the model is missing", |f| f["model"] = json!({"vocab": {}})),
        ("missing field `model`", |f| drop(f.as_object_mut().unwrap().remove("model"))),
        ("the type of the decoder is \"Metaspace\", but only", |f| {
            f["decoder"] = json!({"type": "Metaspace"})
        }),
        ("the type of the decoder is missing", |f| f["decoder"] = Value::Null),
        ("unknown variant `Lowercase`", |f| f["normalizer"] = json!({"type": "Lowercase"})),
        ("unknown variant `Whitespace`", |f| {
            f["pre_tokenizer"]["pretokenizers"][0]["type"] = json!("Whitespace")
        }),
        ("the normalizer is another", |f| {
            f["normalizer"] = json!({"type": "Prepend", "prepend": "▁"})
        }),
        ("the decoder is a \"Sequence\", but only", |f| {
            f["decoder"] = json!({"type": "Sequence", "decoders": [{"type": "Fuse"}]})
        }),
        ("does not end with \"ByteLevel\"", |f| f["pre_tokenizer"] = Value::Null),
        ("`add_prefix_space`", |f| {
            f["pre_tokenizer"]["pretokenizers"][2]["add_prefix_space"] = json!(true)
        }),
        ("the pre-tokenizer's pattern: ", |f| {
            f["pre_tokenizer"]["pretokenizers"][1]["pattern"] = json!({"Regex": "(a"})
        }),
        ("`byte_fallback`", |f| f["model"]["byte_fallback"] = json!(true)),
        ("`dropout`", |f| f["model"]["dropout"] = json!(0.1)),
        ("`end_of_word_suffix`", |f| f["model"]["end_of_word_suffix"] = json!("</w>")),
        ("the unknown token \"<unk>\" is no token", |f| f["model"]["unk_token"] = json!("<unk>")),
        ("the token \"he\" has the id 4294967295, but ids of 258 tokens are below", |f| {
            f["model"]["vocab"]["he"] = json!(u32::MAX)
        }),
        ("the token \"<end>\" has the id 70000", |f| f["added_tokens"][0]["id"] = json!(70_000)),
        ("invalid value: integer `-1`", |f| f["model"]["vocab"]["he"] = json!(-1)),
        ("invalid type: floating point", |f| f["model"]["vocab"]["he"] = json!(1.5)),
        ("the tokens \"A\" and \"he\" both have the id 32", |f| {
            f["model"]["vocab"]["he"] = json!(32)
        }),
        ("the tokens \"he\" and \"<end>\" both have the id 256", |f| {
            f["added_tokens"][0]["id"] = json!(256)
        }),
        ("tokens 0 and 257 of the vocabulary are both \"!\"", |f| {
            f["added_tokens"][0]["content"] = json!("!")
        }),
        ("needs \"hh\", which is not a token", |f| f["model"]["merges"] = json!([["h", "h"]])),
        ("\"h  e\", is not two tokens", |f| f["model"]["merges"] = json!(["h  e"])),
        ("\"h e\", occurs twice", |f| f["model"]["merges"] = json!(["h e", ["h", "e"]])),
        ("has 1000 bytes, but at most 256", |f| {
            f["added_tokens"][0]["content"] = json!("x".repeat(1000))
        }),
    ];
    for (expected, change) in cases {
        let mut file = sound();
        change(&mut file);
        expect(&[("tokenizer.json", &file.to_string())], &["tokenizer.json: ", expected]);
    }
}

#[test]
fn files_that_cannot_be_read() {
    let missing = Path::new("no/such/folder");
    assert!(refusal(missing).starts_with("cannot read no/such/folder"), "{}", refusal(missing));
    expect(&[], &["cannot read", "tokenizer.json"]);
    expect(&[("tokenizer.json", "")], &["tokenizer.json: EOF"]);
    expect(&[("tokenizer.json", "{\"model\": {")], &["tokenizer.json: EOF", "line 1 column 11"]);
    expect(&[("tokenizer.json", "[]")], &["tokenizer.json: "]);
    expect(&[("tokenizer.json", &"[".repeat(100_000))], &["tokenizer.json: "]);

    let folder = folder(&[]);
    let path = folder.path().join("tokenizer.json");
    fs::write(&path, b"{\"\xFF\"}").unwrap();
    assert!(refusal(folder.path()).contains("tokenizer.json: the bytes are not UTF-8 at byte 2"));
    // Sparse: it takes no room on the disk.
    fs::File::create(&path).unwrap().set_len((256 << 20) + 1).unwrap();
    assert!(refusal(folder.path()).contains("tokenizer.json: it has more than 268435456 bytes"));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(refusal(folder.path()).starts_with("cannot read"));
}

#[test]
fn broken_configurations() {
    let vocabulary = sound().to_string();
    for (file, content, expected) in [
        ("tokenizer_config.json", "{", "EOF"),
        ("tokenizer_config.json", "[1]", "expected a map"),
        ("tokenizer_config.json", r#"{"eos_token": "<eos>"}"#, "eos_token is"),
        (
            "tokenizer_config.json",
            r#"{"bos_token": 7}"#,
            "bos_token is \"7\", but a token is needed",
        ),
        (
            "tokenizer_config.json",
            r#"{"bos_token": ""}"#,
            "but a token of the vocabulary is needed",
        ),
        ("tokenizer_config.json", r#"{"add_bos_token": "yes"}"#, "but true or false is needed"),
        (
            "generation_config.json",
            r#"{"eos_token_id": 258}"#,
            "eos_token_id is \"258\", but an id below 258",
        ),
        ("generation_config.json", r#"{"eos_token_id": [1, -1]}"#, "eos_token_id is \"-1\""),
        ("config.json", r#"{"eos_token_id": "<end>"}"#, "but an id below 258"),
        ("config.json", r#"{"bos_token_id": 99999999999}"#, "bos_token_id is \"99999999999\""),
    ] {
        expect(&[("tokenizer.json", &vocabulary), (file, content)], &[file, expected]);
    }
    let add_bos =
        [("tokenizer.json", &*vocabulary), ("tokenizer_config.json", r#"{"add_bos_token": true}"#)];
    expect(&add_bos, &["add_bos_token", "but there is none"]);
}

#[test]
fn configurations_are_read_in_their_order() {
    let vocabulary = sound().to_string();
    let read = |files: &[(&str, &str)]| {
        let files = [&[("tokenizer.json", &*vocabulary)], files].concat();
        Tokenizer::from_folder(folder(&files).path()).unwrap()
    };
    let config = ("config.json", r#"{"bos_token_id": 3, "eos_token_id": 4}"#);
    let generation = ("generation_config.json", r#"{"eos_token_id": [257, 5]}"#);
    let named = (
        "tokenizer_config.json",
        r#"{"bos_token": {"content": "<end>"}, "eos_token": "he", "add_bos_token": true}"#,
    );
    let without = ("tokenizer_config.json", r#"{"bos_token": null, "eos_token": null}"#);
    for (files, bos, eos, leading, stops) in [
        (&[][..], None, None, None, &[][..]),
        (&[config], Some(3), Some(4), None, &[4]),
        (&[config, generation], Some(3), Some(257), None, &[4, 5, 257]),
        (&[config, generation, named], Some(257), Some(256), Some(257), &[4, 5, 256, 257]),
        (&[config, without], None, None, None, &[4]),
    ] {
        let tokenizer = read(files);
        let found: Vec<u32> = (0..300).filter(|&id| tokenizer.is_stop(id)).collect();
        assert_eq!(
            (tokenizer.bos(), tokenizer.eos(), tokenizer.leading().first().copied()),
            (bos, eos, leading)
        );
        assert_eq!(found, stops, "{files:?}");
    }
}

/// The post-processor decides what texts begin with, and `add_bos_token` about `bos`: what the converters to GGUF write
/// as `add_bos_token`.
#[test]
fn post_processors_put_tokens_in_front() {
    let special = |id: &str| json!({"SpecialToken": {"id": id, "type_id": 0}});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    let framed = |parts: &[Value]| {
        json!({"type": "TemplateProcessing", "single": parts, "pair": [], "special_tokens": {
            "<end>": {"id": "<end>", "ids": [257], "tokens": ["<end>"]},
            "he": {"id": "he", "ids": [256], "tokens": ["he"]},
        }})
    };
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true});
    let bos = framed(&[special("<end>"), text.clone()]);
    let both = framed(&[special("<end>"), text.clone(), special("<end>")]);
    let other = framed(&[special("he"), text.clone()]);
    let behind = framed(&[text, special("<end>")]);
    let sequence = json!({"type": "Sequence", "processors": [bytes, bos]});
    let twice = json!({"type": "Sequence", "processors": [other, bos]});
    let roberta = json!({"type": "RobertaProcessing", "sep": ["he", 256], "cls": ["he", 256], "trim_offsets": true,
        "add_prefix_space": false});
    for (processor, unsaid, added, left_out) in [
        (Value::Null, &[][..], &[257][..], &[][..]),
        (bytes, &[], &[257], &[]),
        (bos, &[257], &[257], &[]),
        (both, &[257], &[257], &[]),
        (sequence, &[257], &[257], &[]),
        (other, &[256], &[257, 256], &[256]),
        (twice, &[257, 256], &[257, 256], &[256]),
        (behind, &[], &[257], &[]),
        (roberta, &[], &[257], &[]),
    ] {
        let mut file = sound();
        file["post_processor"] = processor.clone();
        for (add, expected) in [("null", unsaid), ("true", added), ("false", left_out)] {
            let config = format!(r#"{{"bos_token": "<end>", "add_bos_token": {add}}}"#);
            let files =
                [("tokenizer.json", &*file.to_string()), ("tokenizer_config.json", &config)];
            let tokenizer = Tokenizer::from_folder(folder(&files).path()).unwrap();
            assert_eq!(tokenizer.leading(), expected, "{processor} {add}");
        }
    }
    let mut file = sound();
    file["post_processor"] = framed(&[special("<end>")]);
    file["post_processor"]["special_tokens"]["<end>"]["ids"] = json!([999]);
    expect(&[("tokenizer.json", &file.to_string())], &["the leading token is 999"]);
}

#[test]
fn every_end_that_a_folder_names_stops() {
    let vocabulary = sound().to_string();
    let config = r#"{"eos_token": "a", "eot_token": {"content": "b"}, "eom_token": "c"}"#;
    let generation = r#"{"eos_token_id": [4, 5]}"#;
    let folder = folder(&[
        ("tokenizer.json", &vocabulary),
        ("tokenizer_config.json", config),
        ("generation_config.json", generation),
        ("config.json", r#"{"eos_token_id": 6}"#),
    ]);
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    let found: Vec<u32> = (0..300).filter(|&id| tokenizer.is_stop(id)).collect();
    let [a, b, c] = ['a', 'b', 'c'].map(|letter| u32::from(letter) - 0x21);
    assert_eq!(found, [4, 5, 6, a, b, c]);
}

#[test]
fn patterns_that_take_forever_are_an_error_and_not_a_wrong_cut() {
    let mut file = sound();
    file["pre_tokenizer"]["pretokenizers"][1]["pattern"] = json!({"Regex": "(?=x)(x+x+)+(?!x)y"});
    let folder = folder(&[("tokenizer.json", &file.to_string())]);
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    assert!(tokenizer.encode(&"x".repeat(10), false).is_ok());
    let error = tokenizer.encode(&"x".repeat(200), false).unwrap_err().to_string();
    assert!(error.contains("backtrack"), "{error}");
}

#[test]
fn files_that_nest_deep_are_refused() {
    let (open, close) = ("[".repeat(100_000), "]".repeat(100_000));
    let deep = format!("{open}{close}");
    let sequences = r#"{"type": "Sequence", "pretokenizers": ["#.repeat(10_000);
    for content in [
        deep.clone(),
        format!(r#"{{"model": {deep}}}"#),
        format!(r#"{{"unknown": {deep}, "model": 7}}"#),
        sound().to_string().replacen(
            r#""pre_tokenizer":"#,
            &format!(r#""pre_tokenizer":{sequences}"#),
            1,
        ),
    ] {
        expect(&[("tokenizer.json", &content)], &["tokenizer.json: "]);
    }
    let (sound, config) = (sound().to_string(), format!(r#"{{"x": {deep}}}"#));
    expect(&[("tokenizer.json", &sound), ("tokenizer_config.json", &config)], &["recursion limit"]);
}

#[test]
fn patterns_of_any_size_and_depth_are_an_error_or_a_pattern() {
    for (before, unit, after) in [
        ("", "(", ""),
        ("", "(?:", ""),
        ("", "(?=", ""),
        ("", "(?i)", "a"),
        ("a", "*", ""),
        ("a", "{9}", ""),
        ("", "a|", "a"),
        ("", "[", ""),
        ("", "(?#)", "a"),
        ("", "(?=a)", "a"),
        ("(?=a)", "(?:a{1000})?", ""),
        ("", "(?:\\p{L}{1000}){1000}|", "a"),
        ("", "(a)", "\\1"),
    ] {
        // Some that are read, up to the longest, and more.
        for count in [60, (1 << 16) / unit.len() - 20, 100_000] {
            let mut file = sound();
            let pattern = format!("{before}{}{after}", unit.repeat(count));
            file["pre_tokenizer"]["pretokenizers"][1]["pattern"] = json!({"Regex": pattern});
            let folder = folder(&[("tokenizer.json", &file.to_string())]);
            let began = std::time::Instant::now();
            let what = format!("{before}{unit}{after} {count}");
            match Tokenizer::from_folder(folder.path()) {
                Ok(tokenizer) => drop(tokenizer.encode("aaaa bbb", false)),
                Err(error) => {
                    let error = error.to_string();
                    assert!(error.contains("the pre-tokenizer's pattern: "), "{what}: {error}");
                    assert!(error.len() < 1000, "{what}: {} bytes", error.len());
                }
            }
            let taken = began.elapsed();
            assert!(taken.as_secs() < 10, "{what}: {taken:?}");
        }
    }
}

#[test]
fn gaps_between_ids_and_unknown_bytes() {
    let mut file = sound();
    file["added_tokens"][0]["id"] = json!(300);
    file["model"]["vocab"].as_object_mut().unwrap().remove("x");
    let read = |file: &Value| {
        Tokenizer::from_folder(folder(&[("tokenizer.json", &file.to_string())]).path()).unwrap()
    };
    let tokenizer = read(&file);
    assert_eq!(tokenizer.vocabulary_size(), 301);
    assert_eq!(tokenizer.decode(&[256, 280, 300]), "he<end>");
    assert_eq!(tokenizer.encode("hxe<end>", true).unwrap(), [256, 300], "x vanishes");

    file["model"]["unk_token"] = json!("<end>");
    let (h, e) = (u32::from('h') - 0x21, u32::from('e') - 0x21);
    assert_eq!(read(&file).encode("hxxe", false).unwrap(), [h, 300, 300, e]);
    file["model"]["fuse_unk"] = json!(true);
    assert_eq!(read(&file).encode("hxxe", false).unwrap(), [h, 300, e]);
}
