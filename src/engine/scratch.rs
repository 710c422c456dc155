//! Buffers that every layer uses in turn, sized once.

use super::EngineOptions;
use crate::Result;
use crate::attention::Step;
use crate::contract::StepHeader;
use crate::gpu::{Binding, Gpu};
use crate::kernels::{self, SegmentParams};
use crate::kv::{CacheLayout, Offload};
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
    pub(super) host: Option<HostScratch>,
    /// Of a replay with the whole cache on the GPU: what each layer attends, and the bytes from a layer's lists to the next.
    pub(super) steered: Option<(wgpu::Buffer, u64)>,
    is_steered: bool,
}

/// The further scratch of a cache whose blocks live in CPU memory.
pub(super) struct HostScratch {
    /// The step with the slots of the window as tables: what decode appends by.
    pub(super) append_step: wgpu::Buffer,
    /// The step with block tables that name each logical block: what a prompt goes by.
    pub(super) tables: wgpu::Buffer,
    /// Keys and values of one layer of a chunk of a prompt.
    pub(super) chunk: wgpu::Buffer,
    /// The logical blocks that the chunk holds.
    pub(super) chunk_segment: wgpu::Buffer,
    /// An upload's blocks, as they are stored.
    pub(super) uploaded: wgpu::Buffer,
    /// Whole blocks of that, as f16.
    pub(super) arrived: wgpu::Buffer,
    /// The logical blocks that arrived, where the chunk's attention goes over them.
    pub(super) arrived_segment: wgpu::Buffer,
    /// Blocks that level 1 chose, layer by layer.
    pub(super) wanted: wgpu::Buffer,
    /// Candidates of level 2 that are not those, layer by layer.
    pub(super) listed: wgpu::Buffer,
    /// Bytes from a layer's list to the next.
    pub(super) list_stride: u64,
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

struct HostSizes {
    chunk: u64,
    list_stride: u64,
    lists: u64,
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
        let (decode, sessions) = (u64::from(options.most_decoding()), u64::from(options.sessions));
        let rows = u64::from(options.most_rows());
        let logit_rows = u64::from(options.most_logits());
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
            step: floats(Step::most_words(&shape, rows, sessions, blocks)),
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
            host: options.host.as_ref().map(|host| {
                let kept = u64::from(host.hot_blocks);
                let list_stride = (decode * kv_heads * kept * 4).next_multiple_of(256);
                HostSizes {
                    chunk: u64::from(options.chunk_blocks()) * shape.block_bytes(),
                    list_stride,
                    lists: list_stride * u64::from(config.layers),
                }
            }),
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
            + self.host.as_ref().map_or(0, |host| 2 * self.step + host.chunk + 2 * host.lists)
            + self.experts.map_or(0, |experts| experts.iter().sum())
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

/// Scores from one head to the next: room for a score of every token.
pub(super) fn score_stride(options: &EngineOptions) -> u64 {
    let block = u64::from(options.block);
    u64::from(options.context).next_multiple_of(block) + block
}

impl Scratch {
    /// Bytes of a scratch for a cache of one segment, on an adapter that multiplies f16: more segments add little, and
    /// others need little less.
    pub(super) fn bytes(config: &ModelConfig, options: &EngineOptions) -> u64 {
        let states = if options.host.is_some() { 2 } else { 1 };
        Sizes::new(config, options, states).total()
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
        offload: Option<&Offload>,
    ) -> Result<Self> {
        // Blocks that arrive have states of their own.
        let states = u64::from(layout.segments) * if offload.is_some() { 2 } else { 1 };
        let sizes = Sizes::new(config, options, states);
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
            host: match (&sizes.host, offload) {
                (Some(host), Some(offload)) => {
                    Some(HostScratch::new(gpu, host, sizes.step, offload).await?)
                }
                _ => None,
            },
            steered: match options.steered.filter(|_| offload.is_none()) {
                None => None,
                Some(kept) => {
                    let heads = options.shape(config).kv_heads * options.most_decoding();
                    let stride = (u64::from(heads * kept) * 4).next_multiple_of(256);
                    let bytes = stride * u64::from(config.layers);
                    Some((gpu.storage("blocks of a replay", bytes).await?, stride))
                }
            },
            is_steered: options.steered.is_some(),
        })
    }

    /// The step that rows are appended to the cache by.
    pub(super) fn append_step(&self) -> &wgpu::Buffer {
        self.host.as_ref().map_or(&self.step, |host| &host.append_step)
    }

    /// Where a layer's candidates of level 2 are listed: by level 1, and over a hot cache by the host.
    pub(super) fn lists(&self, layer: usize) -> Vec<Binding<'_>> {
        let Some(host) = &self.host else {
            let steered = self
                .steered
                .as_ref()
                .map(|(lists, stride)| Binding::range(lists, layer as u64 * stride, *stride));
            return vec![steered.unwrap_or_else(|| Binding::from(&self.chosen_blocks))];
        };
        let at = layer as u64 * host.list_stride;
        [&host.wanted, &host.listed]
            .map(|buffer| Binding::range(buffer, at, host.list_stride))
            .to_vec()
    }

    /// Where level 1 writes a layer's blocks: to the list that level 2 reads, or in a replay where nobody does.
    pub(super) fn chosen(&self, layer: usize) -> Binding<'_> {
        if self.is_steered {
            return Binding::from(&self.chosen_blocks);
        }
        self.lists(layer).swap_remove(0)
    }

    /// The output that the states of decode attention are merged into.
    pub(super) fn merged(&self) -> &wgpu::Buffer {
        self.latent.as_ref().map_or(&self.attended, |latent| &latent.merged)
    }
}

impl HostScratch {
    async fn new(gpu: &Gpu, sizes: &HostSizes, step: u64, offload: &Offload) -> Result<Self> {
        let nothing = SegmentParams::in_order(0, 0, 0, 2);
        Ok(Self {
            append_step: gpu.storage("the step of what is appended", step).await?,
            tables: gpu.storage("the step of a chunk", step).await?,
            chunk: gpu.storage("a chunk's keys and values", sizes.chunk).await?,
            chunk_segment: gpu.uniform("the blocks of a chunk", nothing).await?,
            uploaded: offload.uploaded().clone(),
            arrived: offload.arrived.clone(),
            arrived_segment: gpu.uniform("the blocks that arrived", nothing).await?,
            wanted: gpu.storage("blocks that are wanted", sizes.lists).await?,
            listed: gpu.storage("blocks that are listed", sizes.lists).await?,
            list_stride: sizes.list_stride,
        })
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
