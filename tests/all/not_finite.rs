//! Models with a weight that is no number: refused with the tensor's name, whichever tensor it is, instead of answering from it.

use crate::common::device::gpu;
use asynctls::engine::{Engine, EngineOptions};
use asynctls::formats::TensorType;
use asynctls::model::{Gguf, ModelFile};
use half::{bf16, f16};
use std::fs;
use std::path::Path;

fn tiny(name: &str) -> std::path::PathBuf {
    Path::new("tests/goldens/tiny").join(name)
}

// What loading says.
fn refusal(path: &Path) -> String {
    let gpu = gpu();
    let options = EngineOptions::new(&gpu, 64);
    let file = ModelFile::open(path).expect("nothing else is wrong");
    let loaded = pollster::block_on(Engine::load(gpu, &file, options, &mut |_| ()));
    loaded.err().map_or_else(|| "it was loaded".into(), |error| error.to_string())
}

// Where a scale or a number of the tensor's middle is, and what stands for no number there.
fn broken(kind: TensorType, bytes: u64) -> (u64, Vec<u8>) {
    let block = kind.block().expect("a type that is known").bytes;
    let middle = bytes / block / 2 * block;
    match kind {
        TensorType::F32 => (middle, f32::NAN.to_le_bytes().into()),
        TensorType::BF16 => (middle, bf16::NAN.to_le_bytes().into()),
        TensorType::Q6K => (middle + 208, f16::INFINITY.to_le_bytes().into()),
        _ => (middle, f16::INFINITY.to_le_bytes().into()),
    }
}

#[test]
fn a_weight_that_is_no_number_is_refused_in_every_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let mut tried = 0;
    for name in ["qwen2", "qwen3-kquants", "qwen3-moe", "glm4-moe-lite", "gemma2"] {
        let whole = fs::read(tiny(name).join("model.gguf")).unwrap();
        let file = Gguf::open(&tiny(name).join("model.gguf")).unwrap();
        // Both layers have the same tensors.
        let tensors = file.tensors().iter().filter(|tensor| !tensor.name.starts_with("blk.0."));
        for tensor in tensors {
            let (at, number) = broken(tensor.kind, tensor.bytes);
            let mut bytes = whole.clone();
            bytes[(tensor.offset + at) as usize..][..number.len()].copy_from_slice(&number);
            fs::write(&path, bytes).unwrap();
            let message = refusal(&path);
            // Its place in the tensor of the file, whatever it is loaded beside.
            let block = tensor.kind.block().unwrap();
            let weight = at / block.bytes * block.weights;
            let place = match &*tensor.shape {
                [_] => String::new(),
                _ if tensor.name.contains("attn_k_b") => "column ".into(),
                shape => format!("row {}: ", weight / shape[0]),
            };
            let named = message.contains(&format!("tensor {}: {place}", tensor.name));
            assert!(
                named && message.contains("must be finite"),
                "{name}, {}: {message}",
                tensor.name
            );
            tried += 1;
        }
    }
    assert!(tried > 50, "{tried}");
}

#[test]
fn folders_likewise() {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(tiny("glm4-moe-lite").join("model")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let path = folder.path().join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let names: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let name = "model.layers.1.self_attn.kv_a_layernorm.weight";
    let at = 8 + header + names[name]["data_offsets"][0].as_u64().unwrap() as usize;
    let number = match names[name]["dtype"].as_str().unwrap() {
        "F32" => f32::NAN.to_le_bytes().to_vec(),
        "BF16" => bf16::NAN.to_le_bytes().to_vec(),
        _ => f16::NAN.to_le_bytes().to_vec(),
    };
    bytes[at..][..number.len()].copy_from_slice(&number);
    fs::write(&path, bytes).unwrap();
    let message = refusal(folder.path());
    assert!(message.contains(name) && message.contains("weight 0 is NaN"), "{message}");
}
