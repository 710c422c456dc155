//! Writes a GGUF file with the shapes of a published model and random weights, to measure speed without a download:
//! `cargo run --release --example random_model -- qwen3-8b BF16 FILE [LAYERS]`.
//!
//! Models: qwen3-0.6b, qwen3-8b, qwen3-30b-a3b, glm-4.7-flash. Types: BF16, Q8_0, Q4_0, Q4_K. There is no tokenizer in it.

use asynctls::model::gguf::TensorType;
use half::{bf16, f16};
use std::fs::File;
use std::io::{self, BufWriter, Write};

/// A tensor's name, its dimensions, innermost first, and its type.
type Tensor = (String, Vec<u64>, TensorType);

enum Value {
    U32(u32),
    F32(f32),
    Text(&'static str),
}

struct Model {
    architecture: &'static str,
    keys: Vec<(&'static str, Value)>,
    layers: u32,
    hidden: u64,
    vocabulary: u64,
    tied: bool,
    layer: fn(&Model, u32, TensorType) -> Vec<Tensor>,
}

impl Model {
    fn named(name: &str) -> Option<Self> {
        use Value::{F32, U32};
        let qwen3 = |layers, hidden: u64, heads, ffn, tied| Self {
            architecture: "qwen3",
            keys: vec![
                ("feed_forward_length", U32(ffn)),
                ("attention.head_count", U32(heads)),
                ("attention.head_count_kv", U32(8)),
                ("attention.key_length", U32(128)),
                ("attention.value_length", U32(128)),
                ("attention.layer_norm_rms_epsilon", F32(1e-6)),
                ("rope.freq_base", F32(1e6)),
                ("context_length", U32(131_072)),
            ],
            layers,
            hidden,
            vocabulary: 151_936,
            tied,
            layer: qwen3_layer,
        };
        Some(match name {
            "qwen3-0.6b" => qwen3(28, 1024, 16, 3072, true),
            "qwen3-8b" => qwen3(36, 4096, 32, 12_288, false),
            "qwen3-30b-a3b" => {
                let mut model = qwen3(48, 2048, 32, 6144, false);
                model.architecture = "qwen3moe";
                model.keys[2].1 = U32(4);
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

fn norms(model: &Model) -> [Tensor; 2] {
    ["attn_norm", "ffn_norm"].map(|name| tensor(name, &[model.hidden], TensorType::F32))
}

fn dense(model: &Model, kind: TensorType) -> [Tensor; 3] {
    let (hidden, ffn) = (model.hidden, model.number("feed_forward_length"));
    [
        tensor("ffn_gate", &[hidden, ffn], kind),
        tensor("ffn_up", &[hidden, ffn], kind),
        tensor("ffn_down", &[ffn, hidden], kind),
    ]
}

fn experts(model: &Model, kind: TensorType) -> [Tensor; 4] {
    let (hidden, ffn) = (model.hidden, model.number("expert_feed_forward_length"));
    let count = model.number("expert_count");
    [
        tensor("ffn_gate_inp", &[hidden, count], TensorType::F32),
        tensor("ffn_gate_exps", &[hidden, ffn, count], kind),
        tensor("ffn_up_exps", &[hidden, ffn, count], kind),
        tensor("ffn_down_exps", &[ffn, hidden, count], kind),
    ]
}

fn qwen3_layer(model: &Model, _: u32, kind: TensorType) -> Vec<Tensor> {
    let hidden = model.hidden;
    let q = model.number("attention.head_count") * 128;
    let kv = model.number("attention.head_count_kv") * 128;
    let mut tensors = vec![
        tensor("attn_q", &[hidden, q], kind),
        tensor("attn_k", &[hidden, kv], kind),
        tensor("attn_v", &[hidden, kv], kind),
        tensor("attn_output", &[q, hidden], kind),
        tensor("attn_q_norm", &[128], TensorType::F32),
        tensor("attn_k_norm", &[128], TensorType::F32),
    ];
    tensors.extend(norms(model));
    if model.architecture == "qwen3moe" {
        tensors.extend(experts(model, kind));
    } else {
        tensors.extend(dense(model, kind));
    }
    tensors
}

fn glm_layer(model: &Model, layer: u32, kind: TensorType) -> Vec<Tensor> {
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

fn text(out: &mut impl Write, text: &str) -> io::Result<()> {
    out.write_all(&(text.len() as u64).to_le_bytes())?;
    out.write_all(text.as_bytes())
}

fn write(model: &Model, kind: TensorType, path: &str) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let tensors = model.tensors(kind);
    let architecture = model.architecture;
    let mut keys: Vec<(String, &Value)> =
        model.keys.iter().map(|(key, value)| (format!("{architecture}.{key}"), value)).collect();
    let (name, layers, hidden) =
        (Value::Text(architecture), Value::U32(model.layers), Value::U32(model.hidden as u32));
    let tokenizer = Value::Text("none");
    keys.extend([
        ("general.architecture".into(), &name),
        (format!("{architecture}.block_count"), &layers),
        (format!("{architecture}.embedding_length"), &hidden),
        ("tokenizer.ggml.model".into(), &tokenizer),
    ]);
    let mut head = Vec::new();
    head.extend(b"GGUF");
    head.extend(3u32.to_le_bytes());
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend((keys.len() as u64).to_le_bytes());
    for (key, value) in keys {
        text(&mut head, &key)?;
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
                text(&mut head, value)?;
            }
        }
    }
    let size = |(_, shape, kind): &Tensor| {
        let block = kind.block().expect("a known type");
        shape.iter().product::<u64>() / block.weights * block.bytes
    };
    let mut offset = 0;
    for tensor in &tensors {
        text(&mut head, &tensor.0)?;
        head.extend((tensor.1.len() as u32).to_le_bytes());
        tensor.1.iter().for_each(|n| head.extend(n.to_le_bytes()));
        head.extend(tensor.2.id().to_le_bytes());
        head.extend(u64::to_le_bytes(offset));
        offset += size(tensor).next_multiple_of(32);
    }
    head.resize(head.len().next_multiple_of(32), 0);
    out.write_all(&head)?;

    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut made: Vec<(TensorType, Vec<u8>)> = Vec::new();
    for tensor in &tensors {
        if !made.iter().any(|blocks| blocks.0 == tensor.2) {
            made.push((tensor.2, blocks(tensor.2, &mut random)));
        }
        let bytes = &made.iter().find(|blocks| blocks.0 == tensor.2).expect("just made").1;
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

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let usage = "random_model MODEL TYPE FILE [LAYERS]";
    let [name, kind, path, rest @ ..] = &arguments[..] else { panic!("{usage}") };
    let mut model = Model::named(name).unwrap_or_else(|| panic!("no model {name}: {usage}"));
    if let [layers] = rest {
        model.layers = layers.parse().expect("a number of layers");
    }
    let kinds = [TensorType::BF16, TensorType::Q8_0, TensorType::Q4_0, TensorType::Q4K];
    let kind = kinds
        .into_iter()
        .find(|known| known.to_string() == *kind)
        .unwrap_or_else(|| panic!("no type {kind}: {usage}"));
    write(&model, kind, path).expect("a file that can be written");
}
