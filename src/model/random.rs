//! Models with published shapes and random weights: to measure speed without a download. There is no tokenizer in them.

use super::ModelFile;
use super::gguf::{Gguf, TensorInfo};
use crate::formats::TensorType;
use crate::{Error, Result};
use half::{bf16, f16};
use std::io::{self, Write};
use std::path::Path;

/// A tensor's name, its dimensions, innermost first, and its type.
type Tensor = (String, Vec<u64>, TensorType);

enum Value {
    U32(u32),
    F32(f32),
    Text(&'static str),
}

/// A model of known shapes.
pub struct RandomModel {
    architecture: &'static str,
    keys: Vec<(&'static str, Value)>,
    layers: u32,
    hidden: u64,
    vocabulary: u64,
    tied: bool,
    layer: fn(&RandomModel, u32, TensorType) -> Vec<Tensor>,
}

impl RandomModel {
    /// The shapes that there are: published ones, and one for tests.
    pub const NAMES: [&str; 6] =
        ["qwen3-8b", "qwen3-0.6b", "qwen3-30b-a3b", "glm-4.7-flash", "smollm2", "tiny"];

    /// The types that weights can have.
    pub const TYPES: [TensorType; 5] =
        [TensorType::F16, TensorType::BF16, TensorType::Q8_0, TensorType::Q4_0, TensorType::Q4K];

    /// The model of one of [`RandomModel::NAMES`].
    pub fn named(name: &str) -> Option<Self> {
        use Value::{F32, U32};
        let grouped =
            |architecture, layers, hidden, [heads, kv_heads, length]: [u32; 3], ffn| Self {
                architecture,
                keys: vec![
                    ("feed_forward_length", U32(ffn)),
                    ("attention.head_count", U32(heads)),
                    ("attention.head_count_kv", U32(kv_heads)),
                    ("attention.key_length", U32(length)),
                    ("attention.value_length", U32(length)),
                    ("attention.layer_norm_rms_epsilon", F32(1e-6)),
                    ("rope.freq_base", F32(1e6)),
                    ("context_length", U32(131_072)),
                ],
                layers,
                hidden,
                vocabulary: 151_936,
                tied: false,
                layer: grouped_layer,
            };
        Some(match name {
            "qwen3-0.6b" => Self { tied: true, ..grouped("qwen3", 28, 1024, [16, 8, 128], 3072) },
            "qwen3-8b" => grouped("qwen3", 36, 4096, [32, 8, 128], 12_288),
            "smollm2" => {
                let model = grouped("llama", 30, 576, [9, 3, 64], 1536);
                Self { tied: true, vocabulary: 49_152, ..model }
            }
            "tiny" => {
                let model = grouped("qwen3", 8, 64, [4, 2, 32], 128);
                Self { vocabulary: 256, ..model }
            }
            "qwen3-30b-a3b" => {
                let mut model = grouped("qwen3moe", 48, 2048, [32, 4, 128], 6144);
                model.keys.extend([
                    ("expert_count", U32(128)),
                    ("expert_used_count", U32(8)),
                    ("expert_feed_forward_length", U32(768)),
                ]);
                model
            }
            "glm-4.7-flash" => Self {
                architecture: "deepseek2",
                keys: vec![
                    ("feed_forward_length", U32(10_240)),
                    ("attention.head_count", U32(20)),
                    ("attention.head_count_kv", U32(1)),
                    ("attention.q_lora_rank", U32(768)),
                    ("attention.kv_lora_rank", U32(512)),
                    ("attention.key_length", U32(576)),
                    ("attention.value_length", U32(512)),
                    ("attention.key_length_mla", U32(256)),
                    ("attention.value_length_mla", U32(256)),
                    ("attention.layer_norm_rms_epsilon", F32(1e-5)),
                    ("rope.dimension_count", U32(64)),
                    ("rope.freq_base", F32(1e6)),
                    ("context_length", U32(202_752)),
                    ("leading_dense_block_count", U32(1)),
                    ("expert_count", U32(64)),
                    ("expert_used_count", U32(4)),
                    ("expert_shared_count", U32(1)),
                    ("expert_feed_forward_length", U32(1536)),
                    ("expert_weights_scale", F32(1.8)),
                    ("expert_gating_func", U32(2)),
                ],
                layers: 47,
                hidden: 2048,
                vocabulary: 154_880,
                tied: false,
                layer: glm_layer,
            },
            _ => return None,
        })
    }

    /// The same with so many layers.
    pub fn with_layers(self, layers: u32) -> Self {
        Self { layers, ..self }
    }

    fn number(&self, key: &str) -> u64 {
        match self.keys.iter().find(|pair| pair.0 == key) {
            Some((_, Value::U32(value))) => u64::from(*value),
            _ => panic!("{key} is a number"),
        }
    }

    fn tensors(&self, kind: TensorType) -> Vec<Tensor> {
        let mut tensors = vec![
            ("token_embd.weight".into(), vec![self.hidden, self.vocabulary], kind),
            ("output_norm.weight".into(), vec![self.hidden], TensorType::F32),
        ];
        if !self.tied {
            tensors.push(("output.weight".into(), vec![self.hidden, self.vocabulary], kind));
        }
        for i in 0..self.layers {
            let named = |(name, shape, kind)| (format!("blk.{i}.{name}"), shape, kind);
            tensors.extend((self.layer)(self, i, kind).into_iter().map(named));
        }
        tensors
    }
}

fn tensor(name: &str, shape: &[u64], kind: TensorType) -> Tensor {
    (format!("{name}.weight"), shape.to_vec(), kind)
}

fn norms(model: &RandomModel) -> [Tensor; 2] {
    ["attn_norm", "ffn_norm"].map(|name| tensor(name, &[model.hidden], TensorType::F32))
}

fn dense(model: &RandomModel, kind: TensorType) -> [Tensor; 3] {
    let (hidden, ffn) = (model.hidden, model.number("feed_forward_length"));
    [
        tensor("ffn_gate", &[hidden, ffn], kind),
        tensor("ffn_up", &[hidden, ffn], kind),
        tensor("ffn_down", &[ffn, hidden], kind),
    ]
}

fn experts(model: &RandomModel, kind: TensorType) -> [Tensor; 4] {
    let (hidden, ffn) = (model.hidden, model.number("expert_feed_forward_length"));
    let count = model.number("expert_count");
    [
        tensor("ffn_gate_inp", &[hidden, count], TensorType::F32),
        tensor("ffn_gate_exps", &[hidden, ffn, count], kind),
        tensor("ffn_up_exps", &[hidden, ffn, count], kind),
        tensor("ffn_down_exps", &[ffn, hidden, count], kind),
    ]
}

fn grouped_layer(model: &RandomModel, _: u32, kind: TensorType) -> Vec<Tensor> {
    let hidden = model.hidden;
    let length = model.number("attention.key_length");
    let q = model.number("attention.head_count") * length;
    let kv = model.number("attention.head_count_kv") * length;
    let mut tensors = vec![
        tensor("attn_q", &[hidden, q], kind),
        tensor("attn_k", &[hidden, kv], kind),
        tensor("attn_v", &[hidden, kv], kind),
        tensor("attn_output", &[q, hidden], kind),
    ];
    if model.architecture != "llama" {
        let norms = ["attn_q_norm", "attn_k_norm"];
        tensors.extend(norms.map(|name| tensor(name, &[length], TensorType::F32)));
    }
    tensors.extend(norms(model));
    if model.architecture == "qwen3moe" {
        tensors.extend(experts(model, kind));
    } else {
        tensors.extend(dense(model, kind));
    }
    tensors
}

fn glm_layer(model: &RandomModel, layer: u32, kind: TensorType) -> Vec<Tensor> {
    let hidden = model.hidden;
    // Rows of 192 are no multiple of a K-quant's 256.
    let keys = if kind == TensorType::Q4K { TensorType::Q8_0 } else { kind };
    let mut tensors = vec![
        tensor("attn_q_a", &[hidden, 768], kind),
        tensor("attn_q_a_norm", &[768], TensorType::F32),
        tensor("attn_q_b", &[768, 20 * 256], kind),
        tensor("attn_kv_a_mqa", &[hidden, 576], kind),
        tensor("attn_kv_a_norm", &[512], TensorType::F32),
        tensor("attn_k_b", &[192, 512, 20], keys),
        tensor("attn_v_b", &[512, 256, 20], kind),
        tensor("attn_output", &[20 * 256, hidden], kind),
    ];
    tensors.extend(norms(model));
    if layer == 0 {
        tensors.extend(dense(model, kind));
        return tensors;
    }
    tensors.extend(experts(model, kind));
    let ffn = model.number("expert_feed_forward_length");
    tensors.push(("exp_probs_b.bias".into(), vec![64], TensorType::F32));
    tensors.extend([
        tensor("ffn_gate_shexp", &[hidden, ffn], kind),
        tensor("ffn_up_shexp", &[hidden, ffn], kind),
        tensor("ffn_down_shexp", &[ffn, hidden], kind),
    ]);
    tensors
}

/// Random words (xorshift).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// From -0.05 to 0.05.
    fn weight(&mut self) -> f32 {
        ((self.next() >> 40) as f32 / (1 << 24) as f32 - 0.5) * 0.1
    }
}

/// Whole blocks of a type, to be written over and over: what the weights are does not matter to the time.
fn blocks(kind: TensorType, random: &mut Random) -> Vec<u8> {
    let block = kind.block().expect("a known type");
    let mut bytes = Vec::new();
    for _ in 0..(8 << 20) / block.bytes {
        match kind {
            TensorType::F32 => bytes.extend((1.0 + random.weight()).to_le_bytes()),
            TensorType::F16 => bytes.extend(f16::from_f32(random.weight()).to_le_bytes()),
            TensorType::BF16 => bytes.extend(bf16::from_f32(random.weight()).to_le_bytes()),
            _ => {
                bytes.extend(f16::from_f32(random.weight() / 8.0).to_le_bytes());
                let mut rest = block.bytes - 2;
                if kind == TensorType::Q4K {
                    bytes.extend(f16::from_f32(random.weight() / 64.0).to_le_bytes());
                    rest -= 2;
                }
                bytes.extend((0..rest).map(|_| (random.next() >> 32) as u8));
            }
        }
    }
    bytes
}

/// Bytes of a tensor.
fn size((_, shape, kind): &Tensor) -> u64 {
    let block = kind.block().expect("a known type");
    shape.iter().product::<u64>() / block.weights * block.bytes
}

/// Bytes of each type that are written over and over.
#[derive(Default)]
struct Made(Vec<(TensorType, Vec<u8>)>);

impl Made {
    fn of(&mut self, kind: TensorType) -> &[u8] {
        if !self.0.iter().any(|made| made.0 == kind) {
            let mut random = Random(0x9e37_79b9_7f4a_7c15 + u64::from(kind.id()));
            self.0.push((kind, blocks(kind, &mut random)));
        }
        &self.0.iter().find(|made| made.0 == kind).expect("just made").1
    }
}

impl RandomModel {
    // All that precedes a file's list of tensors, with their number.
    fn head(&self, tensors: usize) -> Vec<u8> {
        let architecture = self.architecture;
        let mut keys: Vec<(String, &Value)> =
            self.keys.iter().map(|(key, value)| (format!("{architecture}.{key}"), value)).collect();
        let [layers, hidden, vocabulary] =
            [u64::from(self.layers), self.hidden, self.vocabulary].map(|n| Value::U32(n as u32));
        let name = Value::Text(architecture);
        let tokenizer = Value::Text("none");
        keys.extend([
            ("general.architecture".into(), &name),
            (format!("{architecture}.block_count"), &layers),
            (format!("{architecture}.embedding_length"), &hidden),
            // llama.cpp counts a tokenizer's tokens where a file has one, and wants this where it has none.
            (format!("{architecture}.vocab_size"), &vocabulary),
            ("tokenizer.ggml.model".into(), &tokenizer),
        ]);
        let mut head = Vec::new();
        head.extend(b"GGUF");
        head.extend(3u32.to_le_bytes());
        head.extend((tensors as u64).to_le_bytes());
        head.extend((keys.len() as u64).to_le_bytes());
        for (key, value) in keys {
            text(&mut head, &key);
            match value {
                Value::U32(value) => {
                    head.extend(4u32.to_le_bytes());
                    head.extend(value.to_le_bytes());
                }
                Value::F32(value) => {
                    head.extend(6u32.to_le_bytes());
                    head.extend(value.to_le_bytes());
                }
                Value::Text(value) => {
                    head.extend(8u32.to_le_bytes());
                    text(&mut head, value);
                }
            }
        }
        head
    }

    /// Writes the model as a GGUF file.
    ///
    /// # Errors
    /// Errors of the writer.
    pub fn write(&self, kind: TensorType, out: &mut impl Write) -> io::Result<()> {
        let tensors = self.tensors(kind);
        let mut head = self.head(tensors.len());
        let mut offset = 0;
        for tensor in &tensors {
            text(&mut head, &tensor.0);
            head.extend((tensor.1.len() as u32).to_le_bytes());
            tensor.1.iter().for_each(|n| head.extend(n.to_le_bytes()));
            head.extend(tensor.2.id().to_le_bytes());
            head.extend(u64::to_le_bytes(offset));
            offset += size(tensor).next_multiple_of(32);
        }
        head.resize(head.len().next_multiple_of(32), 0);
        out.write_all(&head)?;
        let mut made = Made::default();
        for tensor in &tensors {
            let bytes = made.of(tensor.2);
            let mut left = size(tensor);
            let padding = left.next_multiple_of(32) - left;
            while left > 0 {
                let part = left.min(bytes.len() as u64);
                out.write_all(&bytes[..part as usize])?;
                left -= part;
            }
            out.write_all(&vec![0; padding as usize])?;
        }
        out.flush()
    }

    /// The model without a file: tensors of a type share the memory of the largest.
    ///
    /// # Errors
    /// [`Error::Argument`] where rows are no whole blocks of the type.
    pub fn open(&self, kind: TensorType) -> Result<ModelFile> {
        let tensors = self.tensors(kind);
        let mut made = Made::default();
        let mut data = Vec::new();
        let mut begin: Vec<(TensorType, u64)> = Vec::new();
        let mut infos = Vec::new();
        for tensor in &tensors {
            let (name, shape, kind) = tensor;
            let whole = kind.block().map_or(1, |block| block.weights);
            if shape[0] % whole != 0 {
                let limit = format!("rows of {name} have {} weights", shape[0]);
                return Err(Error::argument("the type of weights", kind, limit));
            }
            let offset = match begin.iter().find(|begin| begin.0 == *kind) {
                Some(begin) => begin.1,
                None => {
                    let same = tensors.iter().filter(|tensor| tensor.2 == *kind);
                    let largest = same.map(size).max().unwrap_or(0) as usize;
                    let offset = data.len();
                    let bytes = made.of(*kind);
                    while data.len() < offset + largest {
                        let part = bytes.len().min(offset + largest - data.len());
                        data.extend_from_slice(&bytes[..part]);
                    }
                    begin.push((*kind, offset as u64));
                    offset as u64
                }
            };
            let (name, shape, kind) = (name.clone(), shape.clone(), *kind);
            infos.push(TensorInfo { name, shape, kind, offset, bytes: size(tensor) });
        }
        Gguf::overlaid(Path::new("a random model"), &self.head(0), infos, data).map(ModelFile::from)
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ModelConfig;

    #[test]
    fn a_model_in_memory_is_the_one_in_a_file() {
        let model = RandomModel::named("tiny").unwrap();
        let here = model.open(TensorType::Q4_0).unwrap();
        let mut bytes = Vec::new();
        model.write(TensorType::Q4_0, &mut bytes).unwrap();
        let file = ModelFile::from(Gguf::from_bytes(Path::new("f"), bytes).unwrap());
        assert_eq!(ModelConfig::read(&here).unwrap(), ModelConfig::read(&file).unwrap());
        assert_eq!(here.tensors().len(), file.tensors().len());
        for (here_info, info) in here.tensors().iter().zip(file.tensors()) {
            assert_eq!(here.bytes(here_info), file.bytes(info), "{}", info.name);
        }
        assert!(model.open(TensorType::Q4K).is_err());
    }

    #[test]
    fn every_shape_is_a_model() {
        for name in RandomModel::NAMES {
            let model = RandomModel::named(name).unwrap().with_layers(2);
            let small = RandomModel { vocabulary: 64, ..model };
            ModelConfig::read(&small.open(TensorType::Q4_0).unwrap()).unwrap();
        }
    }
}
