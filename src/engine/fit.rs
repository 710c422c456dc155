//! A model's need of GPU memory, before it is loaded.

use super::EngineOptions;
use super::memory::MemoryPlan;
use super::weights::WeightRows;
use crate::attention::{MostMissed, Timing, TwoLevel};
use crate::formats::KvType;
use crate::kv::HostOptions;
use crate::memory::{Group, sum};
use crate::model::tensors::Tensors;
use crate::model::{ModelConfig, ModelFile};
use crate::units::size;
use crate::{Error, Result, subject};
use serde::Serialize;

/// The bytes of one buffer that every adapter lets a kernel see.
const LARGEST_BINDING: u64 = 128 << 20;

/// The bytes that an engine needs, and the largest context that a given amount of memory allows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fit {
    /// Weights.
    pub weight_bytes: u64,
    /// Of the weights, those that the file quantises and the GPU holds as floats.
    pub expanded_bytes: u64,
    /// KV cache on the GPU: of the whole context, or of the hot cache and what carries blocks.
    pub kv_bytes: u64,
    /// KV cache in CPU memory.
    pub host_bytes: u64,
    /// The index of the whole context.
    pub index_bytes: u64,
    /// Activations, scores, partial results and what is kept of each session.
    pub scratch_bytes: u64,
}

impl Fit {
    /// Plans an engine.
    ///
    /// # Errors
    /// [`Error::Model`] when the model cannot run; [`Error::Argument`] for options of which there can be no engine.
    pub fn new(file: &ModelFile, config: &ModelConfig, options: &EngineOptions) -> Result<Self> {
        options.validate(config)?;
        let mut options = options.clone();
        options.widen_ring(config);
        let plan = MemoryPlan::new(config, &options);
        plan.check(&options)?;
        let tensors = Tensors::find(config, file)?;
        let weights = WeightRows::new(&tensors, &options)?;
        Ok(Self {
            weight_bytes: sum(&weights.rows),
            expanded_bytes: weights.expanded,
            kv_bytes: plan.kv_bytes(),
            host_bytes: plan.bytes(Group::Host),
            index_bytes: plan.bytes(Group::Index),
            scratch_bytes: plan.bytes(Group::Scratch),
        })
    }

    /// Bytes in all.
    pub fn total_bytes(&self) -> u64 {
        self.weight_bytes + self.kv_bytes + self.index_bytes + self.scratch_bytes
    }

    /// Bytes in all of the memory that the GPU uses, which is CPU memory too where the two share it.
    pub fn bytes_with(&self, is_shared: bool) -> u64 {
        self.total_bytes() + if is_shared { self.host_bytes } else { 0 }
    }

    /// Its need of the memory that the GPU uses, by part: the largest first.
    #[cfg_attr(feature = "measure", visibility::make(pub))]
    pub(crate) fn parts(&self, is_shared: bool) -> [(&'static str, u64); 4] {
        let mut parts = [
            ("the weights", self.weight_bytes),
            ("the KV cache", self.kv_bytes + self.bytes_with(is_shared) - self.total_bytes()),
            ("its index", self.index_bytes),
            ("working memory", self.scratch_bytes),
        ];
        parts.sort_by_key(|&(_, bytes)| std::cmp::Reverse(bytes));
        parts
    }

    /// The largest context, up to that of `options`, with which all of it fits `memory` bytes, which may be CPU memory too: a
    /// multiple of a block, or that of the options. None where not even one block fits.
    ///
    /// # Errors
    /// As [`Fit::new`].
    pub fn largest_context(
        file: &ModelFile,
        config: &ModelConfig,
        options: &EngineOptions,
        (memory, is_shared): (u64, bool),
    ) -> Result<Option<u32>> {
        let fits = |context: u32| {
            let beside = options.total_tokens.saturating_sub(options.context.into());
            let total_tokens = beside + u64::from(context);
            let options = EngineOptions { context, total_tokens, ..options.clone() };
            Ok::<_, Error>(Fit::new(file, config, &options)?.bytes_with(is_shared) <= memory)
        };
        if fits(options.context)? {
            return Ok(Some(options.context));
        }
        let blocks = options.context.div_ceil(options.block);
        let most = largest(0, blocks, |blocks| fits(blocks * options.block))?;
        Ok((most > 0).then_some(most * options.block))
    }
}

/// Where the KV cache lives.
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
    /// How much of its attention a step of the `lagged` or `resident` rule may miss that is not done again.
    pub most_missed: MostMissed,
    /// The stored type.
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
        let block_bytes = self.shape(config).head_format(kv_type).block_bytes();
        let whole = u64::from(self.blocks()) * u64::from(config.layers) * block_bytes;
        HostOptions { kv_type, ..HostOptions::new(hot_blocks, whole, block_bytes) }
    }

    /// Decides where the KV cache lives. The hot cache gets as many blocks as `memory` bytes of GPU memory leave for it,
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
        let with = |hot_blocks: u32| {
            let mut host = self.host_options(config, hot_blocks, rule.kv_type);
            host.sink_blocks = budget.sink_blocks;
            host.recent_blocks = budget.recent_blocks;
            (host.timing, host.most_missed) = (rule.timing, rule.most_missed);
            let mut options = Self { host: Some(host), ..self.clone() };
            // All that came before a chunk of a prompt streams by: a chunk twice as long makes that half as often.
            options.chunk *= 2;
            if MemoryPlan::new(config, &options).largest_of_chunk() > LARGEST_BINDING {
                options.chunk = self.chunk;
            }
            options.widen_ring(config);
            options
        };
        let most = blocks.max(least).min(65536);
        let hot_blocks = match memory {
            None => least.saturating_add(least / 2).min(most),
            Some(memory) => {
                let smallest = Fit::new(file, config, &with(least))?;
                if smallest.total_bytes() > memory {
                    let (part, bytes) = smallest.parts(false)[0];
                    return Err(Error::argument(
                        subject::GPU_MEMORY,
                        size(memory),
                        format!(
                            "with a hot cache of {least} blocks {} are needed, {} of them for {part}: give it more, keep \
                             fewer blocks or shorten the context",
                            size(smallest.total_bytes()),
                            size(bytes)
                        ),
                    ));
                }
                largest(least, most.saturating_add(1), |hot_blocks| {
                    Ok(Fit::new(file, config, &with(hot_blocks))?.total_bytes() <= memory)
                })?
            }
        };
        let placed = with(hot_blocks);
        placed.check_host_memory(file, config)?;
        *self = placed;
        Ok(())
    }

    /// Refuses keys and values in CPU memory that need more of it than is free, where that is known.
    ///
    /// # Errors
    /// [`Error::Argument`]; else as [`Fit::new`].
    pub fn check_host_memory(&self, file: &ModelFile, config: &ModelConfig) -> Result<()> {
        let Some(host) = &self.host else { return Ok(()) };
        let needed = Fit::new(file, config, self)?.host_bytes;
        let Some(there) = crate::gpu::host_memory_bytes().filter(|&there| there < needed) else {
            return Ok(());
        };
        let shorter = match host.kv_type {
            KvType::F16 => "shorten it, or store its KV cache as q8_0, in half as many bytes",
            KvType::Q8_0 => "shorten it",
        };
        Err(Error::argument(
            "the context",
            format!("{} tokens", self.context),
            format!(
                "its KV cache needs {} of CPU memory and {} are free: {shorter}",
                size(needed),
                size(there)
            ),
        ))
    }
}

// The largest number that fits, where `fits` and smaller ones do, and `too_many` do not.
fn largest(fits: u32, too_many: u32, does_fit: impl Fn(u32) -> Result<bool>) -> Result<u32> {
    let (mut most, mut few) = (fits, too_many);
    while few - most > 1 {
        let middle = most + (few - most) / 2;
        match does_fit(middle)? {
            true => most = middle,
            false => few = middle,
        }
    }
    Ok(most)
}
