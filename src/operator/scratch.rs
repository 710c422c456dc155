//! What decode attention needs of its own: rows of a memory plan, pure, and the buffers.

use super::tensors::most_bytes;
use super::{Options, Selector};
use crate::contract::Words as _;
use crate::gpu::{Gpu, buffers};
use crate::kernels::{MergeParams, SegmentParams, StrideParams};
use crate::memory::{DecodeScratch, Row};
use crate::{Error, Result};

buffers! {
    /// What every selector has.
    pub(super) struct Partials {
        partial_o,
        partial_ml,
    }

    /// What two levels have.
    pub(super) struct LevelScratch {
        scores,
        keys,
        head_terms,
        chosen_blocks,
    }
}

pub(super) struct Scratch {
    pub(super) partials: Partials,
    /// Where tokens are selected.
    pub(super) chosen_tokens: Option<wgpu::Buffer>,
    pub(super) levels: Option<LevelScratch>,
    pub(super) uniforms: Uniforms,
}

pub(super) struct Uniforms {
    /// The segments of the cache, and all that they hold: what the index is of.
    pub(super) segments: Vec<wgpu::Buffer>,
    pub(super) whole: wgpu::Buffer,
    pub(super) merge: wgpu::Buffer,
    pub(super) stride: wgpu::Buffer,
}

/// The rows of a scratch, and of the step.
pub(super) struct ScratchRows {
    pub(super) step: Row,
    partials: Partials<Row>,
    chosen_tokens: Option<Row>,
    levels: Option<LevelScratch<Row>>,
}

impl ScratchRows {
    pub(super) fn new(options: &Options, selector: Selector) -> Self {
        let decode = DecodeScratch {
            shape: &options.shape,
            rows: options.limits.rows.into(),
            tokens: options.limits.tokens,
            at_a_time: options.workgroups,
            segments: options.segments().into(),
        };
        let levels = || LevelScratch {
            scores: decode.scores(),
            keys: decode.keys(),
            head_terms: decode.head_terms(),
            chosen_blocks: decode.chosen_blocks(),
        };
        Self {
            step: options.step(),
            partials: Partials { partial_o: decode.partial_o(), partial_ml: decode.partial_ml() },
            chosen_tokens: (selector != Selector::Dense).then(|| decode.chosen_tokens()),
            levels: matches!(selector, Selector::TwoLevel { .. }).then(levels),
        }
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = &Row> {
        let levels = self.levels.iter().flat_map(LevelScratch::rows);
        [&self.step]
            .into_iter()
            .chain(self.partials.rows())
            .chain(&self.chosen_tokens)
            .chain(levels)
    }
}

/// Checks that kernels can see each of these whole.
pub(super) fn check<'r>(gpu: &Gpu, rows: impl IntoIterator<Item = &'r Row>) -> Result<()> {
    let most = most_bytes(gpu);
    match rows.into_iter().find(|row| row.bytes > most) {
        None => Ok(()),
        Some(Row { what, bytes, .. }) => {
            let limit = format!(
                "a kernel sees at most {most} bytes of one buffer here; lower limits need less"
            );
            Err(Error::argument(format!("the size of {what}"), bytes, limit))
        }
    }
}

impl Scratch {
    pub(super) async fn new(gpu: &Gpu, options: &Options, rows: &ScratchRows) -> Result<Self> {
        let stride = StrideParams { stride: options.score_stride() };
        let all = SegmentParams::paged(0, options.limits.cache_blocks, 0, 1);
        let count = options.segments();
        let merge = MergeParams { segments: count, count };
        Ok(Self {
            partials: rows.partials.allocate(gpu).await?,
            chosen_tokens: match &rows.chosen_tokens {
                None => None,
                Some(row) => Some(gpu.allocate(row).await?),
            },
            levels: match &rows.levels {
                None => None,
                Some(rows) => Some(rows.allocate(gpu).await?),
            },
            uniforms: Uniforms {
                segments: segments(gpu, options).await?,
                whole: uniform(gpu, "the cache", &all).await?,
                merge: gpu.uniform("segments", merge).await?,
                stride: gpu.uniform("score rows", stride).await?,
            },
        })
    }
}

/// The segments of the cache.
pub(super) async fn segments(gpu: &Gpu, options: &Options) -> Result<Vec<wgpu::Buffer>> {
    let mut all = Vec::new();
    for params in options.all_segments() {
        all.push(uniform(gpu, "a segment", &params).await?);
    }
    Ok(all)
}

/// A segment's parameters.
pub(super) async fn uniform(gpu: &Gpu, what: &str, params: &SegmentParams) -> Result<wgpu::Buffer> {
    gpu.uniform(what, params.padded()).await
}
