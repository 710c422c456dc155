//! Safetensors and their index: missing, cut, contradictory, or somewhere else.

use super::fixture::{CONFIG, Fixture, INDEX, WEIGHTS};
use serde_json::{Value, json};
use std::fs;

const FIRST: &str = "model-00001-of-00003.safetensors";
const SECOND: &str = "model-00002-of-00003.safetensors";
const EMBEDDING: &str = "model.embed_tokens.weight";

/// A file of these tensors.
fn file(header: &Value, data: usize) -> Vec<u8> {
    raw(header.to_string().as_bytes(), data)
}

fn raw(header: &[u8], data: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.resize(file.len() + data, 0);
    file
}

fn tensor(dtype: &str, shape: &[u64], offsets: [u64; 2]) -> Value {
    json!({"dtype": dtype, "shape": shape, "data_offsets": offsets})
}

#[test]
fn shards_that_are_missing_or_broken() {
    let fixture = Fixture::of("qwen3");
    let whole = fs::read(fixture.path(SECOND)).unwrap();
    fixture.write(SECOND, &whole[..whole.len() - 1]);
    fixture.refused(&[SECOND, "tensor model.layers.1.", "is it cut short?"]);
    fixture.write(SECOND, [&whole[..], &[0]].concat());
    fixture.refused(&[SECOND, "1 bytes follow the last tensor"]);
    fixture.write(SECOND, &whole[..7]).refused(&[SECOND, "it has 7 bytes"]);
    fixture.write(SECOND, &whole[..100]).refused(&[SECOND, "only 92 follow"]);
    fixture.write(SECOND, "").refused(&[SECOND]);
    fs::copy(fixture.path(FIRST), fixture.path(SECOND)).unwrap();
    fixture.refused(&[SECOND, "is in another file too"]);
    fs::remove_file(fixture.path(SECOND)).unwrap();
    fixture.refused(&["cannot read", SECOND]);
    fs::create_dir(fixture.path(SECOND)).unwrap();
    fixture.refused(&["cannot read", SECOND]);

    let fixture = Fixture::of("llama");
    fs::remove_file(fixture.path(WEIGHTS)).unwrap();
    fixture.refused(&["cannot read", WEIGHTS]);
}

#[test]
fn indices_that_lie() {
    let fixture = Fixture::of("qwen3");
    let sound = fixture.json(INDEX);
    for elsewhere in ["../x.safetensors", "/etc/passwd", "..", ".", "", "sub/", "sub/x"] {
        fixture.edit(INDEX, |index| index["weight_map"][EMBEDDING] = json!(elsewhere));
        fixture.refused(&[INDEX, EMBEDDING, "only files beside the index are read"]);
    }
    let cases: &[(Value, &str)] = &[
        (json!([]), "there is no object weight_map"),
        (json!({}), "there is no object weight_map"),
        (json!({"weight_map": [EMBEDDING]}), "there is no object weight_map"),
        (json!({"weight_map": {}}), "weight_map is empty"),
        (json!({"weight_map": {"a": 1}}), "the file of tensor a is no string"),
        (json!({"weight_map": {"a": null}}), "the file of tensor a is no string"),
        (json!({"weight_map": {"a": FIRST}}), "holds no tensor a, though it is listed there"),
    ];
    for (index, message) in cases {
        fixture.write(INDEX, index.to_string()).refused(&[INDEX, message]);
    }
    fixture.write(INDEX, "{").refused(&[INDEX, "EOF"]);
    fixture.write(INDEX, sound.to_string());
    fixture.edit(INDEX, |index| index["weight_map"][EMBEDDING] = json!(SECOND));
    fixture.refused(&[INDEX, SECOND, EMBEDDING]);
    let long = json!({"weight_map": {"a".repeat(1 << 20): FIRST}});
    fixture.write(INDEX, long.to_string()).refused(&[INDEX, "though it is listed there"]);
}

#[test]
fn headers_that_lie() {
    let fixture = Fixture::of("llama");
    let one = |entry: Value| file(&json!({"a": entry}), 8);
    let huge = 1u64 << 61;
    // Their end is 8 bytes below 2^64.
    let offsets = |i: u64| [i * huge, i * huge + (huge - 8 * u64::from(i == 7))];
    let wide: serde_json::Map<String, Value> = (0..8)
        .map(|i| {
            let [first, end] = offsets(i);
            (format!("t{i}"), tensor("F16", &[(end - first) / 2], [first, end]))
        })
        .collect();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (u64::MAX.to_le_bytes().to_vec(), "the header has 18446744073709551615 bytes"),
        (raw(b"\xff", 0), "the header is not UTF-8"),
        (raw(b"[]", 0), "expected a map"),
        (raw(b"", 0), "EOF"),
        (one(json!(1)), "tensor a: "),
        (one(json!({"dtype": "F16"})), "tensor a: missing field `shape`"),
        (one(tensor("I64", &[1], [0, 8])), "tensor a: it is stored as I64, but F32, F16 and BF16"),
        (one(tensor("F8_E4M3", &[8], [0, 8])), "tensor a: it is stored as F8_E4M3"),
        (one(tensor("F16", &[3], [0, 8])), "tensor a: bytes 0 to 8 are not what F16 of shape [3]"),
        (one(tensor("F16", &[4], [8, 0])), "tensor a: bytes 8 to 0"),
        (one(tensor("F16", &[huge, huge], [0, 8])), "tensor a: bytes 0 to 8"),
        (one(tensor("F16", &[4; 9], [0, 8])), "tensor a: it has 9 dimensions"),
        (one(tensor("F16", &[4], [2, 10])), "tensor a: it ends at byte 10 of the data"),
        (one(tensor("F16", &[3], [2, 8])), "tensor a begins at byte 2 of the data"),
        (one(tensor("F16", &[3], [0, 6])), "2 bytes follow the last tensor"),
        (file(&json!({}), 0), "the model has no tensor model.embed_tokens.weight"),
        (file(&Value::Object(wide), 8), "tensor t0: it ends at byte 2305843009213693952"),
        (
            file(&json!({"a": tensor("F16", &[2], [0, 4]), "b": tensor("F16", &[3], [2, 8])}), 8),
            "tensor b begins at byte 2 of the data, but what precedes it ends at 4",
        ),
    ];
    for (content, message) in cases {
        fixture.write(WEIGHTS, content).refused(&[message]);
    }
    let entry = tensor("F16", &[4], [0, 8]);
    let long = json!({"x".repeat(1 << 20): entry, "__metadata__": {"format": "pt"}});
    fixture.write(WEIGHTS, file(&long, 8)).refused(&["the model has no tensor"]);
}

#[test]
fn tensors_of_another_model() {
    let fixture = Fixture::of("llama");
    fs::copy(Fixture::of("llama3").path(WEIGHTS), fixture.path(WEIGHTS)).unwrap();
    fixture.refused(&["tensor ", "has shape ", "is needed"]);
    let fixture = Fixture::of("qwen3-moe");
    fixture.edit(CONFIG, |config| config["architectures"] = json!(["Qwen3ForCausalLM"]));
    fixture.refused(&["the model has no tensor model.layers.0.mlp.gate_proj.weight"]);
}

#[test]
fn headers_that_nest_deep_or_claim_absurd_lengths_are_refused() {
    let fixture = Fixture::of("llama");
    for length in [u64::MAX, 1 << 63, 100_000_001, 0] {
        let mut file = raw(b"{}", 0);
        file[..8].copy_from_slice(&length.to_le_bytes());
        fixture.write(WEIGHTS, file).refused(&[WEIGHTS]);
    }
    let deep = "[".repeat(1_000_000);
    for header in [
        deep.clone(),
        format!("{{\"__metadata__\": {deep}"),
        format!("{{\"x\": {deep}"),
        format!("{{\"x\": {deep}{}}}", "]".repeat(deep.len())),
        format!("{{\"x\": {{\"dtype\": \"F32\", \"shape\": {deep}"),
    ] {
        fixture.write(WEIGHTS, raw(header.as_bytes(), 0)).refused(&[WEIGHTS]);
    }
}

#[test]
fn biases_that_nothing_adds_are_refused() {
    let fixture = Fixture::of("qwen2");
    let whole = fs::read(fixture.path(WEIGHTS)).unwrap();
    let renamed = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let mut bytes = whole.clone();
        let at = bytes.windows(from.len()).position(|name| name == from.as_bytes()).unwrap();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        bytes
    };
    fixture.write(WEIGHTS, renamed("self_attn.q_proj.bias", "self_attn.o_proj.bias"));
    fixture.refused(&["self_attn.o_proj.bias is not supported"]);
    fixture.write(WEIGHTS, renamed("self_attn.k_proj.bias", "self_attn.k_proj.else"));
    fixture.refused(&["the model has no tensor", "self_attn.k_proj.bias"]);
    fixture.write(WEIGHTS, &whole);
    // transformers adds them whatever this says.
    fixture.edit(CONFIG, |config| config["attention_bias"] = json!(true)).read().unwrap();
    fixture.edit(CONFIG, |config| config["architectures"] = json!(["Qwen3ForCausalLM"]));
    fixture.refused(&["_proj.bias is not supported"]);
}
