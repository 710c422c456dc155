//! The Llama family's shapes, read from a GGUF file, and what a model will need in memory.

use super::gguf::{Gguf, TensorInfo};
use crate::attention::Shape;
use crate::kernels::WeightFormat;
use crate::{Error, Result};
use serde::Serialize;

/// The shapes of a Llama-family model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LlamaConfig {
    /// Transformer layers.
    pub layers: u32,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Query heads.
    pub q_heads: u32,
    /// Key and value heads.
    pub kv_heads: u32,
    /// Length of a head.
    pub head_dim: u32,
    /// Width of the feed-forward network.
    pub ffn: u32,
    /// Tokens in the vocabulary.
    pub vocabulary: u32,
    /// The longest context that the model was trained for.
    pub context_length: u32,
    /// Base of the rotary frequencies.
    pub rope_base: f32,
    /// Positions are divided by this (linear RoPE scaling).
    pub rope_scale: f32,
    /// Divisors of each rotary frequency (Llama 3's long-context scaling); empty when the file has none.
    pub rope_divisors: Vec<f32>,
    /// RMSNorm's epsilon.
    pub epsilon: f32,
    /// Whether the output matrix is the embedding.
    pub tied: bool,
}

/// The tensors of one layer, in the order in which they are used.
pub(crate) struct LayerTensors<'a> {
    pub(crate) attn_norm: &'a TensorInfo,
    pub(crate) q: &'a TensorInfo,
    pub(crate) k: &'a TensorInfo,
    pub(crate) v: &'a TensorInfo,
    pub(crate) o: &'a TensorInfo,
    pub(crate) ffn_norm: &'a TensorInfo,
    pub(crate) gate: &'a TensorInfo,
    pub(crate) up: &'a TensorInfo,
    pub(crate) down: &'a TensorInfo,
}

/// The tensors of a model.
pub(crate) struct Tensors<'a> {
    pub(crate) embedding: &'a TensorInfo,
    pub(crate) layers: Vec<LayerTensors<'a>>,
    pub(crate) output_norm: &'a TensorInfo,
    pub(crate) output: &'a TensorInfo,
}

// Far above any model, and low enough that products of two fit u64 and of one with a head count fit u32.
const MOST: u32 = 1 << 20;

impl LlamaConfig {
    /// Reads and checks the shapes.
    ///
    /// # Errors
    /// [`Error::Model`] naming the key, its value and what is supported.
    pub fn read(file: &Gguf) -> Result<Self> {
        let architecture = file.str("general.architecture")?;
        if architecture != "llama" {
            return Err(Error::Model(format!(
                "the architecture is {architecture}, but only llama is supported"
            )));
        }
        let sized = |key: &str, value: u32| {
            if (1..=MOST).contains(&value) {
                Ok(value)
            } else {
                Err(Error::Model(format!("{key} is {value}, but 1 to {MOST} is supported")))
            }
        };
        let number = |key: &str| sized(key, file.u32(key)?);
        let layers = number("llama.block_count")?;
        let hidden = number("llama.embedding_length")?;
        let q_heads = number("llama.attention.head_count")?;
        let kv_heads = match file.opt_u32("llama.attention.head_count_kv")? {
            Some(heads) => sized("llama.attention.head_count_kv", heads)?,
            None => q_heads,
        };
        if q_heads % kv_heads != 0 {
            return Err(Error::Model(format!(
                "{q_heads} query heads cannot share {kv_heads} KV heads evenly"
            )));
        }
        let head_dim = match file.opt_u32("llama.attention.key_length")? {
            Some(length) => sized("llama.attention.key_length", length)?,
            None if hidden % q_heads == 0 => hidden / q_heads,
            None => {
                return Err(Error::Model(format!(
                    "hidden size {hidden} is no multiple of {q_heads} heads"
                )));
            }
        };
        let must_be = |key: &str, wanted: u32| match file.opt_u32(key)? {
            Some(value) if value != wanted => Err(Error::Model(format!(
                "{key} is {value}, but only {wanted} (the head dimension) is supported"
            ))),
            _ => Ok(()),
        };
        must_be("llama.attention.value_length", head_dim)?;
        must_be("llama.rope.dimension_count", head_dim)?;
        let rope_scale = match file.opt_str("llama.rope.scaling.type")? {
            None | Some("none") => 1.0,
            Some("linear") => file.f32("llama.rope.scaling.factor")?,
            Some(other) => {
                return Err(Error::Model(format!(
                    "RoPE scaling {other} is not supported; none and linear are"
                )));
            }
        };
        let rope_base = file.opt_f32("llama.rope.freq_base")?.unwrap_or(10_000.0);
        let epsilon = file.f32("llama.attention.layer_norm_rms_epsilon")?;
        for (key, value) in [
            ("llama.rope.freq_base", rope_base),
            ("the RoPE scaling factor", rope_scale),
            ("RMSNorm's epsilon", epsilon),
        ] {
            if !(value.is_finite() && value > 0.0) {
                return Err(Error::Model(format!(
                    "{key} is {value}, but it must be a number above 0"
                )));
            }
        }
        if let Some(experts) = file.opt_u32("llama.expert_count")?.filter(|&e| e > 0) {
            return Err(Error::Model(format!(
                "the model has {experts} experts, but only dense models are supported"
            )));
        }
        if let Some(bias) = file.tensors().iter().find(|t| t.name.ends_with(".bias")) {
            return Err(Error::Model(format!(
                "tensor {} is not supported: biases are not implemented",
                bias.name
            )));
        }
        let embedding = tensor(file, "token_embd.weight")?;
        let vocabulary = match embedding.shape[..] {
            [_, rows] => sized(
                "the number of rows of token_embd.weight",
                rows.try_into().unwrap_or(u32::MAX),
            )?,
            _ => {
                return Err(Error::Model(format!(
                    "token_embd.weight has shape {:?}, but two dimensions are needed",
                    embedding.shape
                )));
            }
        };
        let rope_divisors = match file.tensor("rope_freqs.weight") {
            None => Vec::new(),
            Some(info) => {
                expect_shape(info, &[u64::from(head_dim / 2)])?;
                crate::reference::dequantize::dequantize(info.kind, file.bytes(info))?
            }
        };
        let config = Self {
            layers,
            hidden,
            q_heads,
            kv_heads,
            head_dim,
            ffn: number("llama.feed_forward_length")?,
            vocabulary,
            context_length: number("llama.context_length")?,
            rope_base,
            rope_scale,
            rope_divisors,
            epsilon,
            tied: file.tensor("output.weight").is_none(),
        };
        config.shape().validate()?;
        config.tensors(file)?;
        Ok(config)
    }

    /// The shape of attention. Llama's GGUF converter permutes Wq and Wk for interleaved rotary pairs.
    pub fn shape(&self) -> Shape {
        Shape::new(self.kv_heads, self.q_heads / self.kv_heads, self.head_dim, true)
    }

    /// The rotary angles of a position, in radians, one a pair: position * base^(-2i/d).
    pub fn angles(&self, position: u32, out: &mut Vec<f64>) {
        let d = f64::from(self.head_dim);
        for i in 0..self.head_dim / 2 {
            let frequency = f64::from(self.rope_base).powf(-2.0 * f64::from(i) / d);
            let divisor = self.rope_divisors.get(i as usize).map_or(1.0, |&v| f64::from(v));
            out.push(f64::from(position) / f64::from(self.rope_scale) * frequency / divisor);
        }
    }

    /// Bytes of keys and values that a token takes, as f16.
    pub fn kv_bytes_a_token(&self) -> u64 {
        let shape = self.shape();
        u64::from(self.layers) * shape.block_bytes() / u64::from(shape.block)
    }

    /// Bytes of index that a token takes, in the default format.
    pub fn index_bytes_a_token(&self) -> u64 {
        let shape = self.shape();
        u64::from(self.layers) * shape.block_code_bytes() / u64::from(shape.block)
    }

    pub(crate) fn tensors<'a>(&self, file: &'a Gguf) -> Result<Tensors<'a>> {
        let [hidden, ffn, d] = [self.hidden, self.ffn, self.head_dim].map(u64::from);
        let (q, kv) = (u64::from(self.q_heads) * d, u64::from(self.kv_heads) * d);
        let get = |name: &str, shape: &[u64]| {
            let info = tensor(file, name)?;
            expect_shape(info, shape)?;
            WeightFormat::of(info.kind).map_err(|e| Error::Model(format!("tensor {name}: {e}")))?;
            Ok::<_, Error>(info)
        };
        let layers = (0..self.layers)
            .map(|i| {
                let get = |name: &str, shape: &[u64]| get(&format!("blk.{i}.{name}.weight"), shape);
                Ok(LayerTensors {
                    attn_norm: get("attn_norm", &[hidden])?,
                    q: get("attn_q", &[hidden, q])?,
                    k: get("attn_k", &[hidden, kv])?,
                    v: get("attn_v", &[hidden, kv])?,
                    o: get("attn_output", &[q, hidden])?,
                    ffn_norm: get("ffn_norm", &[hidden])?,
                    gate: get("ffn_gate", &[hidden, ffn])?,
                    up: get("ffn_up", &[hidden, ffn])?,
                    down: get("ffn_down", &[ffn, hidden])?,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let vocabulary = u64::from(self.vocabulary);
        let embedding = get("token_embd.weight", &[hidden, vocabulary])?;
        Ok(Tensors {
            embedding,
            layers,
            output_norm: get("output_norm.weight", &[hidden])?,
            output: if self.tied {
                embedding
            } else {
                get("output.weight", &[hidden, vocabulary])?
            },
        })
    }
}

fn tensor<'a>(file: &'a Gguf, name: &str) -> Result<&'a TensorInfo> {
    file.tensor(name).ok_or_else(|| Error::Model(format!("the file has no tensor {name}")))
}

fn expect_shape(info: &TensorInfo, shape: &[u64]) -> Result<()> {
    if info.shape == shape {
        return Ok(());
    }
    Err(Error::Model(format!(
        "tensor {} has shape {:?}, but {shape:?} is needed",
        info.name, info.shape
    )))
}
