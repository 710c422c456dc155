//! Buffers that every layer uses in turn, sized once.

use super::EngineOptions;
use crate::Result;
use crate::attention::Step;
use crate::contract::StepHeader;
use crate::gpu::Gpu;
use crate::kernels;
use crate::kv::{CacheLayout, HostOptions};
use crate::model::ModelConfig;
use crate::model::config::AttentionConfig;

/// Strides, in floats, padded to whole units of weights.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strides {
    pub(super) hidden: u32,
    pub(super) ffn: u32,
    pub(super) attention: u32,
    /// Of one expert.
    pub(super) expert: u32,
    pub(super) router: u32,
}

impl Strides {
    pub(super) fn new(config: &ModelConfig) -> Self {
        let padded = |width: u32| width.next_multiple_of(32);
        let experts = config.experts.as_ref();
        Self {
            hidden: padded(config.hidden),
            ffn: padded(config.ffn),
            attention: padded(config.attended()),
            expert: experts.map_or(0, |experts| padded(experts.ffn)),
            router: experts.map_or(0, |experts| padded(experts.count)),
        }
    }
}

pub(super) struct Scratch {
    pub(super) step: wgpu::Buffer,
    pub(super) x: wgpu::Buffer,
    pub(super) normed: wgpu::Buffer,
    /// Queries and what is cached, as decode attention and the index read them.
    pub(super) rows: wgpu::Buffer,
    pub(super) attended: wgpu::Buffer,
    pub(super) ffn: wgpu::Buffer,
    /// Inputs of one product as f16, where products are of those.
    pub(super) halves: wgpu::Buffer,
    pub(super) states: wgpu::Buffer,
    pub(super) partial_o: wgpu::Buffer,
    pub(super) partial_ml: wgpu::Buffer,
    pub(super) logits: wgpu::Buffer,
    pub(super) winners: wgpu::Buffer,
    pub(super) scores: wgpu::Buffer,
    pub(super) keys: wgpu::Buffer,
    pub(super) chosen_blocks: wgpu::Buffer,
    pub(super) chosen_tokens: wgpu::Buffer,
    /// The way station of copies within one buffer: WebGPU refuses to copy a buffer onto itself.
    pub(super) moving: wgpu::Buffer,
    pub(super) staging: wgpu::Buffer,
    pub(super) latent: Option<LatentScratch>,
    pub(super) experts: Option<ExpertScratch>,
}

/// The further scratch of latent attention.
pub(super) struct LatentScratch {
    /// Hidden states projected down: latents and the shared key.
    pub(super) down: wgpu::Buffer,
    pub(super) q_latents: wgpu::Buffer,
    /// Queries of all heads, before absorption.
    pub(super) queries: wgpu::Buffer,
    /// Attended latents of decode rows.
    pub(super) merged: wgpu::Buffer,
    /// Tokens of a slab, of which prefill makes keys and values at a time.
    pub(super) slab_tokens: u32,
    /// A step of so many rows.
    pub(super) slab_step: wgpu::Buffer,
    /// The step with the block tables of slabs: each logical block is where it is.
    pub(super) slab_tables: wgpu::Buffer,
    pub(super) slab_latents: wgpu::Buffer,
    pub(super) slab_shared: wgpu::Buffer,
    pub(super) slab_made: wgpu::Buffer,
    pub(super) slab_kv: wgpu::Buffer,
}

/// The further scratch of a mixture of experts.
pub(super) struct ExpertScratch {
    pub(super) logits: wgpu::Buffer,
    pub(super) slots: wgpu::Buffer,
    pub(super) lists: wgpu::Buffer,
    /// The output of each entry's expert.
    pub(super) made: wgpu::Buffer,
}

// Bytes of each buffer, in the order of the fields above; `states` and `partial` grow with the segments.
struct Sizes {
    step: u64,
    rows: [u64; 5],
    halves: u64,
    states: u64,
    partial_o: u64,
    partial_ml: u64,
    logits: u64,
    winners: u64,
    channels: u64,
    scores: u64,
    keys: u64,
    chosen_blocks: u64,
    chosen_tokens: u64,
    moving: u64,
    latent: Option<LatentSizes>,
    experts: Option<[u64; 4]>,
    host: Option<HostSizes>,
}

/// Bytes of the further buffers of a cache whose blocks live in CPU memory.
pub(super) struct HostSizes {
    pub(super) step: u64,
    pub(super) chunk: u64,
    pub(super) list_stride: u64,
    pub(super) lists: u64,
}

struct LatentSizes {
    slab_tokens: u32,
    rows: [u64; 4],
    slab: [u64; 4],
}

impl Sizes {
    fn new(config: &ModelConfig, options: &EngineOptions, segments: u64) -> Self {
        let shape = options.shape(config);
        let strides = Strides::new(config);
        let decode = u64::from(options.sessions);
        // A step is a chunk of a prompt or a token of every session, and each session's logits may be wanted.
        let rows = u64::from(options.chunk).max(decode);
        let logit_rows = u64::from(options.logit_rows).max(decode);
        let q_heads = u64::from(shape.q_heads());
        let kv_heads = u64::from(shape.kv_heads);
        let blocks = u64::from(options.context.div_ceil(options.block)) + 1;
        // A step's splits are planned for a number of workgroups, so this bounds them whatever the context.
        let quads = u64::from(shape.group.div_ceil(4));
        let partials =
            (u64::from(options.target_workgroups) + decode * kv_heads * quads) * 4 * segments;
        // Level 2 may be given every block, so scores hold a candidate for each token.
        let stride = if options.index.is_some() { score_stride(options) } else { 4 };
        let floats = |count: u64| count * 4;
        let latent = latent_sizes(config, options, rows, decode);
        // Prefill of latent attention goes through slabs as through segments.
        let merges = segments > 1 || latent.is_some() || options.host.is_some();
        let experts = config.experts.as_ref().map(|experts| {
            let slots = u64::from(experts.slots());
            [
                floats(rows * u64::from(strides.router)),
                floats(rows * slots * 2),
                floats(kernels::expert_list_words(experts, rows)),
                floats(rows * slots * u64::from(strides.hidden)),
            ]
        });
        let entries = config
            .experts
            .as_ref()
            .map_or(0, |experts| u64::from(experts.slots()) * u64::from(strides.expert));
        let hidden = floats(rows * u64::from(strides.hidden));
        let attended = floats(rows * u64::from(strides.attention));
        let ffn = floats(rows * u64::from(strides.ffn).max(entries));
        let latents = latent.as_ref().map_or(0, |latent| latent.rows[1].max(latent.slab[0]));
        Self {
            step: step_bytes(config, options),
            rows: [hidden, hidden, floats(rows * u64::from(shape.row_width())), attended, ffn],
            halves: hidden.max(attended).max(ffn).max(latents),
            states: if merges { floats(rows * q_heads * 2) } else { 16 },
            partial_o: floats(partials * u64::from(shape.value_dim())),
            partial_ml: floats(partials * 2),
            logits: floats(logit_rows * u64::from(config.vocabulary)),
            winners: floats(logit_rows),
            channels: floats(shape.channels_len() * u64::from(config.layers)),
            scores: floats(decode * q_heads * stride),
            keys: floats(decode * kv_heads * stride),
            chosen_blocks: floats(decode * kv_heads * blocks),
            chosen_tokens: floats(decode * kv_heads * stride),
            moving: shape
                .block_bytes()
                .max(floats(shape.stats_len()))
                .max(floats(shape.channels_len())),
            latent,
            experts,
            host: options.host.as_ref().map(|host| HostSizes::new(config, options, host)),
        }
    }

    // The bytes that are read back: logits, winners, or the index channels of every layer.
    fn staging(&self) -> u64 {
        self.logits.max(self.winners).max(self.channels)
    }

    fn total(&self) -> u64 {
        let latent = self.latent.as_ref().map_or(0, |latent| {
            2 * self.step + latent.rows.iter().chain(&latent.slab).sum::<u64>()
        });
        self.step
            + self.rows.iter().sum::<u64>()
            + self.halves
            + self.states
            + self.partial_o
            + self.partial_ml
            + self.logits
            + self.staging()
            + self.winners
            + self.scores
            + self.keys
            + self.chosen_blocks
            + self.chosen_tokens
            + self.moving
            + latent
            + self.host.as_ref().map_or(0, HostSizes::total)
            + self.experts.map_or(0, |experts| experts.iter().sum())
    }
}

// A step is a chunk of a prompt or a token of every session.
fn step_bytes(config: &ModelConfig, options: &EngineOptions) -> u64 {
    let decode = u64::from(options.sessions);
    let blocks = u64::from(options.context.div_ceil(options.block)) + 1;
    let rows = u64::from(options.chunk).max(decode);
    4 * Step::most_words(&options.shape(config), rows, decode, blocks)
}

impl HostSizes {
    pub(super) fn new(config: &ModelConfig, options: &EngineOptions, host: &HostOptions) -> Self {
        let shape = options.shape(config);
        let lists = u64::from(options.sessions * shape.kv_heads) * u64::from(host.hot_blocks);
        let list_stride = (lists * 4).next_multiple_of(256);
        Self {
            step: step_bytes(config, options),
            chunk: u64::from(options.chunk_blocks()) * shape.block_bytes(),
            list_stride,
            lists: list_stride * u64::from(config.layers),
        }
    }

    fn total(&self) -> u64 {
        2 * self.step + self.chunk + 2 * self.lists
    }
}

fn latent_sizes(
    config: &ModelConfig,
    options: &EngineOptions,
    rows: u64,
    decode: u64,
) -> Option<LatentSizes> {
    let AttentionConfig::Latent(latent) = config.attention else { return None };
    // As many tokens as a chunk has, so that scratch grows with it alone.
    let slab_tokens = options.chunk.max(options.block).next_multiple_of(options.block);
    let slab = u64::from(slab_tokens);
    let [heads, kv_rank, nope, rope, value] =
        [latent.heads, latent.kv_rank, latent.nope, latent.rope, latent.value].map(u64::from);
    let floats = |count: u64| count * 4;
    Some(LatentSizes {
        slab_tokens,
        rows: [
            floats(rows * u64::from(kernels::down_row(&latent).1)),
            floats(rows * u64::from(latent.q_rank.next_multiple_of(32))),
            floats(rows * heads * (nope + rope)),
            floats(decode * heads * kv_rank),
        ],
        slab: [
            floats(slab * kv_rank),
            floats(slab * rope),
            floats(slab * heads * (nope + value)),
            latent.prefill_shape(options.block).block_bytes() * slab / u64::from(options.block),
        ],
    })
}

// Segments that states may come from: blocks that arrive have states of their own.
fn state_segments(options: &EngineOptions, segments: u32) -> u64 {
    u64::from(segments) * if options.host.is_some() { 2 } else { 1 }
}

/// Scores from one head to the next: room for a score of every token.
pub(super) fn score_stride(options: &EngineOptions) -> u64 {
    let block = u64::from(options.block);
    u64::from(options.context).next_multiple_of(block) + block
}

impl Scratch {
    /// Bytes of a scratch for a cache of one segment, on an adapter that multiplies f16: more segments add little, and
    /// others need little less.
    pub(super) fn bytes(config: &ModelConfig, options: &EngineOptions) -> u64 {
        Sizes::new(config, options, state_segments(options, 1)).total()
    }

    /// Bytes of the largest buffer that a longer chunk makes larger.
    pub(super) fn largest_of_chunk(config: &ModelConfig, options: &EngineOptions) -> u64 {
        let sizes = Sizes::new(config, options, 1);
        let latent = sizes.latent.iter().flat_map(|latent| latent.rows.iter().chain(&latent.slab));
        let experts = sizes.experts.iter().flatten();
        sizes.rows.iter().chain(latent).chain(experts).copied().max().unwrap_or(0)
    }

    pub(super) async fn new(
        gpu: &Gpu,
        config: &ModelConfig,
        options: &EngineOptions,
        layout: &CacheLayout,
    ) -> Result<Self> {
        let sizes = Sizes::new(config, options, state_segments(options, layout.segments));
        let halves = if kernels::has_matrix_units(gpu.tier) { sizes.halves } else { 0 };
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        Ok(Self {
            step: gpu.storage("the step", sizes.step).await?,
            x: gpu.storage("the residual stream", sizes.rows[0]).await?,
            normed: gpu.storage("normed activations", sizes.rows[1]).await?,
            rows: gpu.storage("queries, keys and values", sizes.rows[2]).await?,
            attended: gpu.storage("attention outputs", sizes.rows[3]).await?,
            ffn: gpu.storage("feed-forward activations", sizes.rows[4]).await?,
            halves: gpu.storage("inputs as f16", halves).await?,
            states: gpu.storage("attention states", sizes.states).await?,
            partial_o: gpu.storage("partial outputs", sizes.partial_o).await?,
            partial_ml: gpu.storage("partial states", sizes.partial_ml).await?,
            logits: gpu.storage("logits", sizes.logits).await?,
            winners: gpu.storage("winners", sizes.winners).await?,
            scores: gpu.storage("scores", sizes.scores).await?,
            keys: gpu.storage("score keys", sizes.keys).await?,
            chosen_blocks: gpu.storage("chosen blocks", sizes.chosen_blocks).await?,
            chosen_tokens: gpu.storage("chosen tokens", sizes.chosen_tokens).await?,
            moving: gpu.storage("a block on its way", sizes.moving).await?,
            staging: gpu.buffer("read-back", sizes.staging(), usage).await?,
            latent: match &sizes.latent {
                None => None,
                Some(latent) => Some(LatentScratch::new(gpu, latent, sizes.step).await?),
            },
            experts: match sizes.experts {
                None => None,
                Some([logits, slots, lists, made]) => Some(ExpertScratch {
                    logits: gpu.storage("router logits", logits).await?,
                    slots: gpu.storage("chosen experts", slots).await?,
                    lists: gpu.storage("lists of experts", lists).await?,
                    made: gpu.storage("outputs of experts", made).await?,
                }),
            },
        })
    }

    /// The output that the states of decode attention are merged into.
    pub(super) fn merged(&self) -> &wgpu::Buffer {
        self.latent.as_ref().map_or(&self.attended, |latent| &latent.merged)
    }
}

impl LatentScratch {
    async fn new(gpu: &Gpu, sizes: &LatentSizes, step: u64) -> Result<Self> {
        let slab_step = gpu.storage("the step of a slab", step).await?;
        let header = StepHeader { rows: sizes.slab_tokens, ..StepHeader::default() };
        gpu.write(&slab_step, 0, bytemuck::bytes_of(&header));
        Ok(Self {
            down: gpu.storage("latents", sizes.rows[0]).await?,
            q_latents: gpu.storage("query latents", sizes.rows[1]).await?,
            queries: gpu.storage("queries", sizes.rows[2]).await?,
            merged: gpu.storage("attended latents", sizes.rows[3]).await?,
            slab_tokens: sizes.slab_tokens,
            slab_step,
            slab_tables: gpu.storage("the step over slabs", step).await?,
            slab_latents: gpu.storage("a slab's latents", sizes.slab[0]).await?,
            slab_shared: gpu.storage("a slab's shared keys", sizes.slab[1]).await?,
            slab_made: gpu.storage("a slab's keys and values", sizes.slab[2]).await?,
            slab_kv: gpu.storage("a slab's cache", sizes.slab[3]).await?,
        })
    }
}
