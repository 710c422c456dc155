//! The model families: each reads its shapes from a file's description. What the layers then do follows from the shapes.

mod description;
mod gemma2;
mod glm4_moe_lite;
mod llama;
mod mistral;
mod qwen2;
mod qwen3;
mod rope;
mod sliding;

use super::config::{AttentionConfig, Grouped, ModelConfig};
use super::file::{ModelFile, Source};
use super::json_file::short;
use crate::attention::Activation;
use crate::{Error, Result};
use description::{Description, Key, key};
use rope::Turning;

/// Name in GGUF files, name in `config.json`, reader. GGUF files carry Mistral as `llama`.
type Family =
    (Option<&'static str>, &'static str, fn(&ModelFile, Description<'_>) -> Result<ModelConfig>);

const FAMILIES: [Family; 7] = [
    (Some("llama"), "LlamaForCausalLM", llama::read),
    (None, "MistralForCausalLM", mistral::read),
    (Some("qwen2"), "Qwen2ForCausalLM", qwen2::read),
    (Some("qwen3"), "Qwen3ForCausalLM", qwen3::read),
    (Some("qwen3moe"), "Qwen3MoeForCausalLM", qwen3::read_experts),
    (Some("gemma2"), "Gemma2ForCausalLM", gemma2::read),
    (Some("deepseek2"), "Glm4MoeLiteForCausalLM", glm4_moe_lite::read),
];

/// Reads a model's shapes.
pub(super) fn read(file: &ModelFile) -> Result<ModelConfig> {
    let (name, description) = Description::of(file)?;
    let own = |family: &Family| if description.is_json() { Some(family.1) } else { family.0 };
    let Some(family) = FAMILIES.iter().find(|family| own(family) == Some(name)) else {
        let known: Vec<_> = FAMILIES.iter().filter_map(own).collect();
        return Err(Error::Model(format!(
            "the architecture is {}, but only {} are supported",
            short(name),
            known.join(", ")
        )));
    };
    (family.2)(file, description)
}

const LAYERS: Key = key("block_count", "num_hidden_layers");
const HIDDEN: Key = key("embedding_length", "hidden_size");
const FFN: Key = key("feed_forward_length", "intermediate_size");
const Q_HEADS: Key = key("attention.head_count", "num_attention_heads");
const KV_HEADS: Key = key("attention.head_count_kv", "num_key_value_heads");
const HEAD_DIM: Key = key("attention.key_length", "head_dim");
const CONTEXT: Key = key("context_length", "max_position_embeddings");
const EPSILON: Key = key("attention.layer_norm_rms_epsilon", "rms_norm_eps");
/// transformers 5 writes the second name.
const EXPERTS: [Key; 2] =
    [key("expert_count", "num_experts"), key("expert_count", "num_local_experts")];
const EXPERT_FFN: Key = key("expert_feed_forward_length", "moe_intermediate_size");
const EXPERTS_USED: Key = key("expert_used_count", "num_experts_per_tok");

/// What sets families apart whose layers are otherwise as Llama's.
#[derive(Clone, Copy, Debug, Default)]
struct Traits {
    /// Norms of queries and keys.
    norms: bool,
    /// Biases of queries, keys and values.
    biases: bool,
    /// Rotary pairs are neighbours.
    interleaved: bool,
    /// What gates of feed-forward networks go through.
    activation: Activation,
}

/// Heads of grouped-query attention.
fn grouped(description: Description<'_>, traits: Traits) -> Result<Grouped> {
    let hidden = description.size(HIDDEN)?;
    let q_heads = description.size(Q_HEADS)?;
    let kv_heads = description.opt_size(KV_HEADS)?.unwrap_or(q_heads);
    let head_dim = match description.opt_size(HEAD_DIM)? {
        Some(length) => length,
        None if hidden.is_multiple_of(q_heads) => hidden / q_heads,
        None => {
            return Err(Error::Model(format!(
                "hidden size {hidden} is no multiple of {q_heads} heads"
            )));
        }
    };
    description.must_be(key("attention.value_length", ""), head_dim)?;
    description.must_be(key("rope.dimension_count", ""), head_dim)?;
    if !traits.biases {
        description.must_be_off("attention_bias")?;
    }
    description.must_be_off("mlp_bias")?;
    Ok(Grouped {
        q_heads,
        kv_heads,
        head_dim,
        head_norms: traits.norms,
        biases: traits.biases,
        scaled_by: head_dim,
        softcap: None,
    })
}

/// Llama's layers: grouped queries and one feed-forward network, without sliding windows.
fn llama_like(
    file: &ModelFile,
    description: Description<'_>,
    architecture: &str,
    traits: Traits,
) -> Result<ModelConfig> {
    no_other_biases(file, traits.biases)?;
    description.must_activate(traits.activation)?;
    let grouped = grouped(description, traits)?;
    let (vocabulary, tied) = vocabulary(file, description)?;
    let Turning { rope, context, plain_context } =
        rope::read(description, grouped.head_dim, traits.interleaved)?;
    Ok(ModelConfig {
        architecture: architecture.into(),
        layers: description.size(LAYERS)?,
        hidden: description.size(HIDDEN)?,
        vocabulary,
        context_length: context,
        plain_context,
        epsilon: description.positive(EPSILON)?,
        norm_offset: 0.0,
        post_norms: false,
        embedding_factor: 1.0,
        logit_softcap: None,
        tied,
        attention: AttentionConfig::Grouped(grouped),
        sliding_window: None,
        rope,
        ffn: description.size(FFN)?,
        activation: traits.activation,
        experts: None,
    })
}

/// The number of rows of the embedding, and whether the output matrix is a tensor of its own.
fn vocabulary(file: &ModelFile, description: Description<'_>) -> Result<(u32, bool)> {
    let (embedding, output) = match file.source {
        Source::Gguf(_) => ("token_embd.weight", "output.weight"),
        Source::Folder(_) => ("model.embed_tokens.weight", "lm_head.weight"),
    };
    let embedding = file
        .tensor(embedding)
        .ok_or_else(|| Error::Model(format!("the model has no tensor {embedding}")))?;
    let rows = match embedding.shape[..] {
        [_, rows] => description::sized(
            &format!("the number of rows of {}", embedding.name),
            rows.try_into().unwrap_or(u32::MAX),
        )?,
        _ => {
            return Err(Error::Model(format!(
                "{} has shape {:?}, but two dimensions are needed",
                embedding.name, embedding.shape
            )));
        }
    };
    // A folder may hold a copy of the embedding as its output matrix, or say that it must hold one.
    let is_tied = description
        .opt_flag(key("", "tie_word_embeddings"))?
        .unwrap_or_else(|| file.tensor(output).is_none());
    Ok((rows, is_tied))
}

/// Refuses biases, but those of queries, keys and values where a family has them.
fn no_other_biases(file: &ModelFile, of_heads: bool) -> Result<()> {
    const OF_HEADS: [&str; 6] = ["attn_q", "attn_k", "attn_v", "q_proj", "k_proj", "v_proj"];
    let is_other = |name: &str| match name.strip_suffix(".bias") {
        None => false,
        Some(rest) => !of_heads || !OF_HEADS.iter().any(|of_heads| rest.ends_with(of_heads)),
    };
    match file.tensors().iter().find(|t| is_other(&t.name)) {
        None => Ok(()),
        Some(bias) => Err(Error::Model(format!(
            "tensor {} is not supported: this bias is not implemented",
            bias.name
        ))),
    }
}
