//! GLM-4.7-Flash: multi-head latent attention and a mixture of experts, of DeepSeek-V3's kind (arXiv 2412.19437). GGUF files
//! carry it as `deepseek2`.

use super::description::{Description, Key, key};
use super::rope::{self, Turning};
use super::{EPSILON, EXPERT_FFN, EXPERTS_USED, FFN, HIDDEN, LAYERS, Q_HEADS, vocabulary};
use crate::attention::{Activation, Experts, Gate, Latent};
use crate::model::config::{AttentionConfig, ModelConfig};
use crate::model::file::ModelFile;
use crate::model::json_file::short;
use crate::{Error, Result};

const Q_RANK: Key = key("attention.q_lora_rank", "q_lora_rank");
const KV_RANK: Key = key("attention.kv_lora_rank", "kv_lora_rank");
const ROPE: Key = key("rope.dimension_count", "qk_rope_head_dim");
const NEXT_TOKENS: Key = key("nextn_predict_layers", "num_nextn_predict_layers");
const COUNT: Key = key("expert_count", "n_routed_experts");
const SHARED: Key = key("expert_shared_count", "n_shared_experts");
const DENSE: Key = key("leading_dense_block_count", "first_k_dense_replace");
const FACTOR: Key = key("expert_weights_scale", "routed_scaling_factor");
const NORMALISED: Key = key("expert_weights_norm", "norm_topk_prob");
const GROUPS: Key = key("expert_group_count", "n_group");
const GROUPS_USED: Key = key("expert_group_used_count", "topk_group");

/// The epsilon of transformers' norms of latents, whatever `config.json` says.
const TRANSFORMERS_EPSILON: f32 = 1e-6;

pub(super) fn read(file: &ModelFile, description: Description<'_>) -> Result<ModelConfig> {
    description.must_be_off("attention_bias")?;
    description.must_activate(Activation::Silu)?;
    let listed = description.size(LAYERS)?;
    // GGUF counts the layers that predict further tokens, which follow the others; they are not used.
    let layers = match description {
        Description::Gguf { .. } => {
            listed - description.opt_number(NEXT_TOKENS)?.unwrap_or(0).min(listed - 1)
        }
        Description::Json { .. } => listed,
    };
    let epsilon = description.positive(EPSILON)?;
    let latent = latent(description, epsilon)?;
    let (vocabulary, tied) = vocabulary(file, description)?;
    // Half-split pairs.
    if let Some(false) = description.opt_flag(key("", "rope_interleave"))? {
        return Err(Error::Model(
            "rope_interleave of config.json is false, but only true is supported".into(),
        ));
    }
    let Turning { rope, context, plain_context } = rope::read(description, latent.rope, true)?;
    Ok(ModelConfig {
        architecture: "glm4_moe_lite".into(),
        layers,
        hidden: description.size(HIDDEN)?,
        vocabulary,
        context_length: context,
        plain_context,
        epsilon,
        norm_offset: 0.0,
        post_norms: false,
        embedding_factor: 1.0,
        logit_softcap: None,
        tied,
        attention: AttentionConfig::Latent(latent),
        sliding_window: None,
        rope,
        ffn: description.size(FFN)?,
        activation: Activation::Silu,
        experts: Some(experts(description, vocabulary, layers, listed)?),
    })
}

fn latent(description: Description<'_>, epsilon: f32) -> Result<Latent> {
    let rope = description.size(ROPE)?;
    let (nope, value, epsilon) = match description {
        Description::Gguf { .. } => {
            // The absorbed lengths go by the plain names; files that predate them have the heads' there.
            let heads = |absorbed, plain| match description.opt_size(key(absorbed, ""))? {
                Some(length) => Ok(length),
                None => description.size(key(plain, "")),
            };
            let query = heads("attention.key_length_mla", "attention.key_length")?;
            let value = heads("attention.value_length_mla", "attention.value_length")?;
            let nope = query.checked_sub(rope).filter(|&nope| nope > 0).ok_or_else(|| {
                Error::Model(format!(
                    "a head's query has {query} dimensions, but {rope} of them are rotated"
                ))
            })?;
            (nope, value, epsilon)
        }
        Description::Json { .. } => (
            description.size(key("", "qk_nope_head_dim"))?,
            description.size(key("", "v_head_dim"))?,
            TRANSFORMERS_EPSILON,
        ),
    };
    let q_rank = description.opt_size(Q_RANK)?.ok_or_else(|| {
        Error::Model(
            "the queries of this model have no latent (q_lora_rank), but only models that have one are supported"
                .into(),
        )
    })?;
    Ok(Latent {
        heads: description.size(Q_HEADS)?,
        q_rank,
        kv_rank: description.size(KV_RANK)?,
        nope,
        rope,
        value,
        epsilon,
    })
}

fn experts(
    description: Description<'_>,
    vocabulary: u32,
    layers: u32,
    listed: u32,
) -> Result<Experts> {
    description.must_be(GROUPS, 1)?;
    description.must_be(GROUPS_USED, 1)?;
    let gate = match description {
        // Early files of GLM-4.7-Flash lack the key.
        Description::Gguf { .. } => match description.opt_number(key("expert_gating_func", ""))? {
            Some(2) => Gate::Sigmoid,
            Some(1) => Gate::Softmax,
            None if vocabulary == 154_880 && (47..=48).contains(&listed) => Gate::Sigmoid,
            None => Gate::Softmax,
            Some(other) => {
                return Err(Error::Model(format!(
                    "{} is {other}, but 1 (softmax) and 2 (sigmoid) are supported",
                    description.name(key("expert_gating_func", ""))
                )));
            }
        },
        Description::Json { .. } => Gate::Sigmoid,
    };
    Ok(Experts {
        count: description.size(COUNT)?,
        used: description.size(EXPERTS_USED)?,
        shared: description.opt_number(SHARED)?.unwrap_or(0),
        ffn: description.size(EXPERT_FFN)?,
        gate,
        normalised: description.opt_flag(NORMALISED)?.unwrap_or(description.is_json()),
        factor: description.opt_float(FACTOR)?.unwrap_or(1.0),
        layers: sparse_layers(description, layers)?,
    })
}

// config.json says which layers have experts in one of two styles.
fn sparse_layers(description: Description<'_>, layers: u32) -> Result<Vec<bool>> {
    let Some(types) = description.json("mlp_layer_types") else {
        let dense = description.opt_number(DENSE)?.unwrap_or(0);
        return Ok((0..layers).map(|i| i >= dense).collect());
    };
    let kinds: Option<Vec<bool>> = types.as_array().and_then(|list| {
        list.iter()
            .map(|kind| match kind.as_str() {
                Some("sparse") => Some(true),
                Some("dense") => Some(false),
                _ => None,
            })
            .collect()
    });
    kinds.filter(|kinds| kinds.len() == layers as usize).ok_or_else(|| {
        let shown = short(&types.to_string());
        Error::Model(format!(
            "mlp_layer_types of config.json is {shown}, but a list of {layers} times \"dense\" or \"sparse\" is needed"
        ))
    })
}
