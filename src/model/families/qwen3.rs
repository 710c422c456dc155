//! Qwen3 (arXiv 2505.09388): Llama's layers with a norm of each query and key head, and in the larger models experts.

use super::description::{Description, sized};
use super::{
    CONTEXT, EPSILON, EXPERT_FFN, EXPERTS, EXPERTS_USED, FFN, HIDDEN, LAYERS, grouped, no_biases,
    vocabulary,
};
use crate::model::config::{AttentionConfig, Experts, Gate, ModelConfig};
use crate::model::file::ModelFile;
use crate::model::rope::Rope;
use crate::{Error, Result};
use serde_json::Value;

pub(super) fn read(file: &ModelFile, description: Description<'_>) -> Result<ModelConfig> {
    no_biases(file)?;
    let heads = grouped(description, true)?;
    let (vocabulary, tied) = vocabulary(file)?;
    Ok(ModelConfig {
        architecture: "qwen3".into(),
        layers: description.size(LAYERS)?,
        hidden: description.size(HIDDEN)?,
        vocabulary,
        context_length: description.size(CONTEXT)?,
        epsilon: description.positive(EPSILON)?,
        tied,
        attention: AttentionConfig::Grouped(heads),
        rope: Rope {
            base: description.rope_base()?,
            dims: heads.head_dim,
            interleaved: false,
            scaling: description.rope_scaling(heads.head_dim)?,
        },
        ffn: description.size(FFN)?,
        experts: None,
    })
}

pub(super) fn read_experts(file: &ModelFile, description: Description<'_>) -> Result<ModelConfig> {
    let config = read(file, description)?;
    let normalised = match description.json("norm_topk_prob") {
        // What GGUF's readers do; the key is not converted.
        None if !description.is_json() => true,
        None => false,
        Some(value) => value.as_bool().ok_or_else(|| {
            Error::Model(format!(
                "norm_topk_prob of config.json is {value}, but true or false is needed"
            ))
        })?,
    };
    let experts = Experts {
        count: description.size(EXPERTS)?,
        used: description.size(EXPERTS_USED)?,
        shared: 0,
        ffn: description.size(EXPERT_FFN)?,
        gate: Gate::Softmax,
        normalised,
        factor: 1.0,
        layers: layers(file, description, config.layers)?,
    };
    Ok(ModelConfig { architecture: "qwen3moe".into(), experts: Some(experts), ..config })
}

// Which layers have experts.
fn layers(file: &ModelFile, description: Description<'_>, layers: u32) -> Result<Vec<bool>> {
    if !description.is_json() {
        let has = |i| file.tensor(&format!("blk.{i}.ffn_gate_inp.weight")).is_some();
        return Ok((0..layers).map(has).collect());
    }
    let step = match description.json("decoder_sparse_step") {
        None => 1,
        Some(value) => {
            let step = value.as_u64().and_then(|step| step.try_into().ok()).unwrap_or(0);
            sized("decoder_sparse_step of config.json", step)?
        }
    };
    let dense: Vec<u64> = match description.json("mlp_only_layers") {
        None => Vec::new(),
        Some(list) => {
            list.as_array().and_then(|list| list.iter().map(Value::as_u64).collect()).ok_or_else(
                || Error::Model("mlp_only_layers of config.json must be a list of layers".into()),
            )?
        }
    };
    Ok((0..layers)
        .map(|i| (i + 1).is_multiple_of(step) && !dense.contains(&u64::from(i)))
        .collect())
}
