//! What a model will need in GPU memory, before it is loaded.

use super::EngineOptions;
use crate::Result;
use crate::model::tensors::{AttentionTensors, FfnTensors, Recipe, Tensors};
use crate::model::weights::gpu_bytes;
use crate::model::{ModelConfig, ModelFile};
use serde::Serialize;

/// The bytes that an engine needs, and the largest context that a given amount of memory allows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fit {
    /// Weights.
    pub weight_bytes: u64,
    /// Keys and values of the whole context.
    pub kv_bytes: u64,
    /// The index of the whole context.
    pub index_bytes: u64,
    /// Activations, scores and partial results.
    pub scratch_bytes: u64,
    /// Bytes of cache and index that one more block takes.
    pub block_bytes: u64,
    /// Tokens in a block.
    pub block_tokens: u64,
}

impl Fit {
    /// Plans an engine.
    ///
    /// # Errors
    /// [`crate::Error::Model`] when the model cannot run.
    pub fn new(file: &ModelFile, config: &ModelConfig, options: &EngineOptions) -> Result<Self> {
        let tensors = Tensors::find(config, file)?;
        let mut weight_bytes = 0;
        for recipe in recipes(&tensors) {
            weight_bytes += gpu_bytes(recipe, options.quantise)?;
        }
        // Norms, as floats.
        weight_bytes += 2 * 4 * u64::from(config.hidden) * u64::from(config.layers);
        let blocks = u64::from(options.blocks());
        let (shape, layers) = (options.shape(config), u64::from(config.layers));
        let index = options.index.as_ref().map_or(0, |index| {
            let bounds = if index.bounds { shape.block_bounds_bytes() } else { 0 };
            shape.block_code_bytes() + bounds
        });
        Ok(Self {
            weight_bytes,
            kv_bytes: blocks * layers * shape.block_bytes(),
            index_bytes: blocks * layers * index,
            scratch_bytes: super::scratch::Scratch::bytes(config, options),
            block_bytes: layers * (shape.block_bytes() + index),
            block_tokens: u64::from(options.block),
        })
    }

    /// Bytes in all.
    pub fn total_bytes(&self) -> u64 {
        self.weight_bytes + self.kv_bytes + self.index_bytes + self.scratch_bytes
    }

    /// The largest context that fits `memory` bytes, in tokens.
    pub fn largest_context(&self, memory: u64) -> u64 {
        memory.saturating_sub(self.weight_bytes + self.scratch_bytes) / self.block_bytes.max(1)
            * self.block_tokens
    }
}

// Every matrix of a model.
fn recipes<'t, 'a>(tensors: &'t Tensors<'a>) -> Vec<&'t Recipe<'a>> {
    let mut recipes = vec![&tensors.embedding];
    recipes.extend(&tensors.output);
    for layer in &tensors.layers {
        recipes.push(&layer.output);
        match &layer.attention {
            AttentionTensors::Grouped { qkv, .. } => recipes.push(qkv),
            AttentionTensors::Latent(latent) => recipes.extend([
                &latent.down,
                &latent.q_up,
                &latent.key_up,
                &latent.key_absorb,
                &latent.value_up,
            ]),
        }
        match &layer.ffn {
            FfnTensors::Dense { gate_up, down } => recipes.extend([gate_up, down]),
            FfnTensors::Experts { router, gate_up, down, .. } => {
                recipes.extend([router, gate_up, down]);
            }
        }
    }
    recipes
}
