//! What a model will need in GPU memory, before it is loaded.

use super::EngineOptions;
use super::scratch::Scratch;
use crate::attention::{Timing, TwoLevel};
use crate::kv::{HeadFormat, HostOptions, KvType, Offload};
use crate::model::quantise::Quantise;
use crate::model::tensors::{AttentionTensors, FfnTensors, Recipe, Tensors};
use crate::model::weights::{gate_up, gpu_bytes};
use crate::model::{ModelConfig, ModelFile};
use crate::{Error, Result};
use serde::Serialize;
use std::borrow::Cow;

/// What every adapter lets a kernel see of one buffer.
const LARGEST_BINDING: u64 = 128 << 20;

/// The bytes that an engine needs, and the largest context that a given amount of memory allows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fit {
    /// Weights.
    pub weight_bytes: u64,
    /// Of the weights, those that the file quantises and the GPU holds as floats.
    pub expanded_bytes: u64,
    /// Keys and values on the GPU: of the whole context, or of the hot cache and what carries blocks.
    pub kv_bytes: u64,
    /// Keys and values in CPU memory.
    pub host_bytes: u64,
    /// The index of the whole context.
    pub index_bytes: u64,
    /// Activations, scores and partial results.
    pub scratch_bytes: u64,
    /// Bytes of cache and index that one more block of context takes on the GPU.
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
        let mut expanded_bytes = 0;
        for recipe in recipes(&tensors, options.quantise) {
            let bytes = gpu_bytes(&recipe, options.quantise)?;
            weight_bytes += bytes.all;
            expanded_bytes += bytes.expanded;
        }
        // Norms, as floats.
        weight_bytes += 2 * 4 * u64::from(config.hidden) * u64::from(config.layers);
        let blocks = u64::from(options.blocks());
        let (shape, layers) = (options.shape(config), u64::from(config.layers));
        let index = options.index.as_ref().map_or(0, |index| {
            let bounds = if index.bounds { shape.block_bounds_bytes() } else { 0 };
            shape.block_code_bytes() + bounds
        });
        let whole = blocks * layers * shape.block_bytes();
        let (kv_bytes, host_bytes, a_block) = match (&options.host, options.hot_slots()) {
            (Some(host), Some(hot)) => {
                let slots = u64::from(hot.slots) * shape.block_bytes();
                let words = hot.words(shape.kv_heads) * 4;
                let carried = Offload::bytes(host, &shape, options.leaving_blocks());
                let format = HeadFormat::new(host.kv_type, &shape);
                let host_bytes = blocks * layers * format.block_bytes();
                (layers * (slots + words) + carried, host_bytes, layers * index)
            }
            _ => (whole, 0, layers * (shape.block_bytes() + index)),
        };
        Ok(Self {
            weight_bytes,
            expanded_bytes,
            kv_bytes,
            host_bytes,
            index_bytes: blocks * layers * index,
            scratch_bytes: Scratch::bytes(config, options),
            block_bytes: a_block,
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

/// Where keys and values live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// On the GPU if they fit, else as [`Placement::Host`].
    Auto,
    /// On the GPU.
    Gpu,
    /// In CPU memory, with a hot cache on the GPU.
    Host,
}

/// How blocks in CPU memory are kept and fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostRule {
    /// When chosen blocks have to be on the GPU.
    pub timing: Timing,
    /// What they are stored as.
    pub kv_type: KvType,
}

impl EngineOptions {
    /// Options for blocks that live in CPU memory, stored as `kv_type`, with `hot_blocks` slots a KV head on the GPU.
    pub fn host_options(
        &self,
        config: &ModelConfig,
        hot_blocks: u32,
        kv_type: KvType,
    ) -> HostOptions {
        let block_bytes = HeadFormat::new(kv_type, &self.shape(config)).block_bytes();
        let whole = u64::from(self.blocks()) * u64::from(config.layers) * block_bytes;
        HostOptions { kv_type, ..HostOptions::new(hot_blocks, whole, block_bytes) }
    }

    /// Decides where keys and values live. The hot cache gets as many blocks as `memory` bytes of GPU memory leave for it,
    /// or half as many again as a step chooses where no such limit is known.
    ///
    /// # Errors
    /// [`Error::Argument`] when the smallest hot cache does not fit, or what would be in CPU memory exceeds it; else as
    /// [`Fit::new`].
    pub fn place(
        &mut self,
        file: &ModelFile,
        config: &ModelConfig,
        placement: Placement,
        two_level: &TwoLevel,
        rule: HostRule,
        memory: Option<u64>,
    ) -> Result<()> {
        self.host = None;
        if placement == Placement::Gpu {
            return Ok(());
        }
        let whole = Fit::new(file, config, self)?;
        if placement == Placement::Auto && memory.is_none_or(|memory| whole.total_bytes() <= memory)
        {
            return Ok(());
        }
        let budget = two_level.effective_budget();
        let blocks = self.context.div_ceil(self.block);
        let dense = budget.dense_below.min(self.context).div_ceil(self.block);
        let least = budget.blocks_kept(blocks).saturating_mul(self.sessions).max(dense).max(1);
        let layers = u64::from(config.layers);
        let shape = self.shape(config);
        let with = |hot_blocks: u32| {
            let mut host = self.host_options(config, hot_blocks, rule.kv_type);
            host.sink_blocks = budget.sink_blocks;
            host.recent_blocks = budget.recent_blocks;
            host.timing = rule.timing;
            let mut options = Self { host: Some(host), ..self.clone() };
            // All that came before a chunk of a prompt streams by: a chunk twice as long makes that half as often.
            options.chunk *= 2;
            if Scratch::largest_of_chunk(config, &options) > LARGEST_BINDING {
                options.chunk = self.chunk;
            }
            options.widen_ring(config);
            options
        };
        let most = blocks.max(least).min(65536);
        let hot_blocks = match memory {
            None => (least + least / 2).min(most),
            Some(memory) => {
                let smallest = Fit::new(file, config, &with(least))?;
                let Some(room) = memory.checked_sub(smallest.total_bytes()) else {
                    return Err(Error::argument(
                        "the GPU memory",
                        format!("{memory} bytes"),
                        format!(
                            "weights, index, working memory and a hot cache of {least} blocks need {} bytes: give it \
                             more, keep fewer blocks or shorten the context",
                            smallest.total_bytes()
                        ),
                    ));
                };
                // A slot's keys and values, its word, and its places in the lists of what is chosen.
                let words = u64::from(shape.kv_heads) * 4 * (1 + 2 * u64::from(self.sessions));
                let slot = layers * (shape.block_bytes() + words);
                least + (room / slot).min(u64::from(most - least)) as u32
            }
        };
        let placed = with(hot_blocks);
        let needed = Fit::new(file, config, &placed)?.host_bytes;
        if let Some(there) = crate::gpu::host_memory_bytes().filter(|&there| there < needed) {
            return Err(Error::argument(
                "the context",
                format!("{} tokens", self.context),
                format!(
                    "its keys and values need {needed} bytes of CPU memory and {there} are free"
                ),
            ));
        }
        *self = placed;
        Ok(())
    }
}

// Every matrix of a model.
fn recipes<'t, 'a>(
    tensors: &'t Tensors<'a>,
    quantise: Option<Quantise>,
) -> Vec<Cow<'t, Recipe<'a>>> {
    let mut recipes = vec![&tensors.embedding];
    recipes.extend(&tensors.output);
    let mut gates_ups = Vec::new();
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
        let pairs = match &layer.ffn {
            FfnTensors::Dense { gate_up, down } => {
                recipes.push(down);
                gate_up
            }
            FfnTensors::Experts { router, gate_up, down, .. } => {
                recipes.extend([router, down]);
                gate_up
            }
        };
        gates_ups.extend(gate_up(pairs, quantise).into_iter().map(|(recipe, _)| recipe));
    }
    recipes.into_iter().map(Cow::Borrowed).chain(gates_ups.into_iter().map(Cow::Owned)).collect()
}
