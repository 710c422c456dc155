//! Qwen3 (arXiv 2505.09388): Llama's layers with a norm of each query and key head, and in the larger models experts.

use super::description::{Description, key};
use super::{EXPERT_FFN, EXPERTS, EXPERTS_USED, Traits, llama_like, sliding};
use crate::attention::{Activation, Experts, Gate};
use crate::model::config::ModelConfig;
use crate::model::file::ModelFile;
use crate::{Error, Result};
use serde_json::Value;
use std::collections::HashSet;

const TRAITS: Traits =
    Traits { norms: true, biases: false, interleaved: false, activation: Activation::Silu };

pub(super) fn read(file: &ModelFile, description: Description<'_>) -> Result<ModelConfig> {
    let config = llama_like(file, description, "qwen3", TRAITS)?;
    let first = sliding::first_layer(description)?;
    let sliding_window = sliding::where_switched_on(description, config.layers, first)?;
    Ok(ModelConfig { sliding_window, ..config })
}

pub(super) fn read_experts(file: &ModelFile, description: Description<'_>) -> Result<ModelConfig> {
    let config = llama_like(file, description, "qwen3moe", TRAITS)?;
    let sliding_window = sliding::where_switched_on(description, config.layers, 0)?;
    // Where nothing is said: false in config.json, true for GGUF's readers; the key is not converted.
    let normalised =
        description.opt_flag(key("", "norm_topk_prob"))?.unwrap_or(!description.is_json());
    let experts = Experts {
        count: count(description)?,
        used: description.size(EXPERTS_USED)?,
        shared: 0,
        ffn: description.size(EXPERT_FFN)?,
        gate: Gate::Softmax,
        normalised,
        factor: 1.0,
        layers: layers(file, description, config.layers)?,
    };
    Ok(ModelConfig { sliding_window, experts: Some(experts), ..config })
}

fn count(description: Description<'_>) -> Result<u32> {
    let [old, new] = EXPERTS.map(|key| description.opt_size(key));
    match (old?, new?) {
        (Some(old), Some(new)) if old != new => Err(Error::Model(format!(
            "{} is {new}, but {} is {old}: they must be the same",
            description.name(EXPERTS[1]),
            description.name(EXPERTS[0])
        ))),
        (Some(count), _) | (None, Some(count)) => Ok(count),
        (None, None) => Err(description.missing(EXPERTS[0])),
    }
}

// Which layers have experts.
fn layers(file: &ModelFile, description: Description<'_>, layers: u32) -> Result<Vec<bool>> {
    if !description.is_json() {
        let has = |i| file.tensor(&format!("blk.{i}.ffn_gate_inp.weight")).is_some();
        return Ok((0..layers).map(has).collect());
    }
    let step = description.opt_size(key("", "decoder_sparse_step"))?.unwrap_or(1);
    let dense: HashSet<u64> = match description.json("mlp_only_layers") {
        None => HashSet::new(),
        Some(list) => {
            list.as_array().and_then(|list| list.iter().map(Value::as_u64).collect()).ok_or_else(
                || Error::Model("mlp_only_layers of config.json must be a list of layers".into()),
            )?
        }
    };
    Ok((0..layers).map(|i| (i + 1).is_multiple_of(step) && !dense.contains(&i.into())).collect())
}
