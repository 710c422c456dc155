//! Buffers that every layer uses in turn, sized once.

use super::EngineOptions;
use crate::Result;
use crate::attention::Step;
use crate::gpu::Gpu;
use crate::kv::CacheLayout;
use crate::model::llama::LlamaConfig;

/// Strides, in floats, padded to whole units of weights.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strides {
    pub(super) hidden: u32,
    pub(super) ffn: u32,
    pub(super) attention: u32,
}

impl Strides {
    pub(super) fn new(config: &LlamaConfig) -> Self {
        Self {
            hidden: config.hidden.next_multiple_of(32),
            ffn: config.ffn.next_multiple_of(32),
            attention: config.q_heads * config.head_dim,
        }
    }
}

pub(super) struct Scratch {
    pub(super) step: wgpu::Buffer,
    pub(super) x: wgpu::Buffer,
    pub(super) normed: wgpu::Buffer,
    pub(super) qkv: wgpu::Buffer,
    pub(super) attended: wgpu::Buffer,
    pub(super) ffn: wgpu::Buffer,
    pub(super) states: wgpu::Buffer,
    pub(super) partial_o: wgpu::Buffer,
    pub(super) partial_ml: wgpu::Buffer,
    pub(super) logits: wgpu::Buffer,
    pub(super) winners: wgpu::Buffer,
    pub(super) scores: wgpu::Buffer,
    pub(super) keys: wgpu::Buffer,
    pub(super) chosen_blocks: wgpu::Buffer,
    pub(super) chosen_tokens: wgpu::Buffer,
    /// What is copied within one buffer goes by way of this one: WebGPU refuses to copy a buffer onto itself.
    pub(super) moving: wgpu::Buffer,
    pub(super) staging: wgpu::Buffer,
}

// Bytes of each buffer, in the order of the fields above; `states` and `partial` grow with the segments.
struct Sizes {
    step: u64,
    rows: [u64; 5],
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
}

impl Sizes {
    fn new(config: &LlamaConfig, options: &EngineOptions, segments: u64) -> Self {
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
        Self {
            step: floats(Step::most_words(&shape, rows, decode, blocks)),
            rows: [
                floats(rows * u64::from(strides.hidden)),
                floats(rows * u64::from(strides.hidden)),
                floats(rows * u64::from(shape.row_width())),
                floats(rows * u64::from(strides.attention)),
                floats(rows * u64::from(strides.ffn)),
            ],
            states: if segments > 1 { floats(rows * q_heads * 2) } else { 16 },
            partial_o: floats(partials * u64::from(shape.head_dim)),
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
        }
    }

    // What is read back: logits, winners, or the index channels of every layer.
    fn staging(&self) -> u64 {
        self.logits.max(self.winners).max(self.channels)
    }

    fn total(&self) -> u64 {
        self.step
            + self.rows.iter().sum::<u64>()
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
    }
}

/// Scores from one head to the next: room for a score of every token.
pub(super) fn score_stride(options: &EngineOptions) -> u64 {
    u64::from(options.context.next_multiple_of(options.block)) + u64::from(options.block)
}

impl Scratch {
    /// Bytes of a scratch for a cache of one segment: more segments add little.
    pub(super) fn bytes(config: &LlamaConfig, options: &EngineOptions) -> u64 {
        Sizes::new(config, options, 1).total()
    }

    pub(super) async fn new(
        gpu: &Gpu,
        config: &LlamaConfig,
        options: &EngineOptions,
        layout: &CacheLayout,
    ) -> Result<Self> {
        let sizes = Sizes::new(config, options, u64::from(layout.segments));
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        Ok(Self {
            step: gpu.storage("the step", sizes.step).await?,
            x: gpu.storage("the residual stream", sizes.rows[0]).await?,
            normed: gpu.storage("normed activations", sizes.rows[1]).await?,
            qkv: gpu.storage("queries, keys and values", sizes.rows[2]).await?,
            attended: gpu.storage("attention outputs", sizes.rows[3]).await?,
            ffn: gpu.storage("feed-forward activations", sizes.rows[4]).await?,
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
        })
    }
}
