//! What decode attention needs of its own: sizes, pure, and the buffers.

use super::tensors::most_bytes;
use super::{Options, Selector};
use crate::contract::Words as _;
use crate::gpu::Gpu;
use crate::kernels::{MergeParams, SegmentParams, StrideParams};
use crate::{Error, Result};

pub(super) struct Scratch {
    pub(super) partial_o: wgpu::Buffer,
    pub(super) partial_ml: wgpu::Buffer,
    /// Where tokens are selected.
    pub(super) chosen_tokens: Option<wgpu::Buffer>,
    pub(super) levels: Option<LevelScratch>,
    pub(super) uniforms: Uniforms,
}

pub(super) struct LevelScratch {
    pub(super) scores: wgpu::Buffer,
    pub(super) keys: wgpu::Buffer,
    pub(super) chosen_blocks: wgpu::Buffer,
}

pub(super) struct Uniforms {
    pub(super) segment: wgpu::Buffer,
    pub(super) merge: wgpu::Buffer,
    pub(super) stride: wgpu::Buffer,
}

/// Bytes of each buffer of the scratch.
pub(super) struct Sizes {
    pub(super) step: u64,
    partial_o: u64,
    partial_ml: u64,
    chosen_tokens: u64,
    /// Scores, keys and chosen blocks.
    levels: [u64; 3],
}

impl Sizes {
    pub(super) fn new(options: &Options, selector: Selector) -> Self {
        let shape = &options.shape;
        let rows = u64::from(options.limits.rows);
        let heads = rows * u64::from(shape.kv_heads);
        // Splits are planned for a number of workgroups, so this bounds them whatever the context.
        let states = (u64::from(options.workgroups) + rows * options.row_workgroups()) * 4;
        let stride = u64::from(options.score_stride());
        let selects = u64::from(selector != Selector::Dense);
        let ranks = u64::from(matches!(selector, Selector::TwoLevel { .. }));
        Self {
            step: options.step_words() * 4,
            partial_o: states * u64::from(shape.value_dim()) * 4,
            partial_ml: states * 8,
            chosen_tokens: selects * heads * stride * 4,
            levels: [
                ranks * heads * u64::from(shape.group) * stride * 4,
                ranks * heads * stride * 4,
                ranks * heads * u64::from(options.sequence_blocks()) * 4,
            ],
        }
    }

    pub(super) fn named(&self) -> [(&'static str, u64); 7] {
        let [scores, keys, blocks] = self.levels;
        [
            ("the step", self.step),
            ("partial outputs", self.partial_o),
            ("partial states", self.partial_ml),
            ("chosen tokens", self.chosen_tokens),
            ("scores", scores),
            ("score keys", keys),
            ("chosen blocks", blocks),
        ]
    }

    /// Checks that kernels can see each of them whole.
    pub(super) fn check(&self, gpu: &Gpu) -> Result<()> {
        let most = most_bytes(gpu);
        match self.named().into_iter().find(|(_, bytes)| *bytes > most) {
            None => Ok(()),
            Some((what, bytes)) => {
                let limit = format!(
                    "a kernel sees at most {most} bytes of one buffer here; lower limits need less"
                );
                Err(Error::argument(format!("the size of {what}"), bytes, limit))
            }
        }
    }
}

impl Scratch {
    pub(super) async fn new(
        gpu: &Gpu,
        options: &Options,
        selector: Selector,
        sizes: &Sizes,
    ) -> Result<Self> {
        let levels = match selector {
            Selector::TwoLevel { .. } => Some(LevelScratch {
                scores: gpu.storage("scores", sizes.levels[0]).await?,
                keys: gpu.storage("score keys", sizes.levels[1]).await?,
                chosen_blocks: gpu.storage("chosen blocks", sizes.levels[2]).await?,
            }),
            _ => None,
        };
        let chosen_tokens = match selector {
            Selector::Dense => None,
            _ => Some(gpu.storage("chosen tokens", sizes.chosen_tokens).await?),
        };
        let stride = StrideParams { stride: options.score_stride() };
        let uniforms = Uniforms {
            segment: segment(gpu, options).await?,
            merge: gpu.uniform("segments", MergeParams { segments: 1, count: 1 }).await?,
            stride: gpu.uniform("score rows", stride).await?,
        };
        Ok(Self {
            partial_o: gpu.storage("partial outputs", sizes.partial_o).await?,
            partial_ml: gpu.storage("partial states", sizes.partial_ml).await?,
            chosen_tokens,
            levels,
            uniforms,
        })
    }
}

/// The whole cache is one segment.
pub(super) async fn segment(gpu: &Gpu, options: &Options) -> Result<wgpu::Buffer> {
    let params = SegmentParams::paged(0, options.limits.cache_blocks, 0, 1);
    // Uniform structures are padded to 16 bytes in WGSL.
    let mut words = [0; 12];
    words[..params.words().len()].copy_from_slice(params.words());
    gpu.uniform("the cache", words).await
}
