//! The kernels of a selection with what they read bound: engines and operators have them alike.

use super::attend::{with_layout, with_row_width};
use super::index::{BlockSummary, TokenCodes, block_summary, token_codes};
use super::select::{
    BlockScore, ExactBlockScore, ExactTokenScore, Scored, SummaryScore, TokenScore, TopK,
    block_score, exact_block_score, exact_token_score, summary_score, token_score,
};
use crate::attention::{BlockScorer, KvLayout, Reads, Shape, Summary, TokenScorer};
use crate::gpu::{Binding, Gpu, Op, ShaderSpec};
use crate::{Error, Result};

/// A segment of a cache or of an index: what says which blocks it holds, and what it holds of them.
pub(crate) type Segment<'a> = (Binding<'a>, Binding<'a>);

/// What the kernels of a selection are made for.
#[derive(Clone, Copy)]
pub(crate) struct Selection<'a> {
    pub(crate) shape: &'a Shape,
    /// Floats from one row's queries to the next.
    pub(crate) row_width: u32,
    /// How keys lie.
    pub(crate) layout: KvLayout,
}

/// What all kernels that score bind.
#[derive(Clone)]
pub(crate) struct Scoring<'a> {
    pub(crate) step: Binding<'a>,
    pub(crate) qkv: Binding<'a>,
    pub(crate) scores: Binding<'a>,
    pub(crate) score_rows: Binding<'a>,
}

impl<'a> Scoring<'a> {
    /// What a choice by these scores binds, with scratch for its keys and a list for what it chooses; of what, is the caller's to add.
    pub(crate) fn top_k(&self, keys: Binding<'a>, chosen: Binding<'a>) -> TopK<Binding<'a>> {
        let Self { step, scores, score_rows, .. } = self.clone();
        TopK { step, score_rows, scores, keys, chosen, chosen_blocks: None, hot_slots: None }
    }
}

/// The scores of a level by one scorer.
pub(crate) struct ScoreOps {
    /// Segment by segment of what is read; none where everything is kept.
    ops: Vec<Op>,
    /// What a workgroup scores.
    scored: Scored,
}

impl ScoreOps {
    /// Records the scores of up to `blocks` blocks.
    pub(crate) fn record(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        blocks: u32,
        kv_heads: u32,
        rows: u32,
    ) {
        for op in &self.ops {
            op.record(pass, self.scored.workgroups(blocks), kv_heads, rows);
        }
    }
}

impl Selection<'_> {
    /// What scores blocks so, with what of them a workgroup scores.
    pub(crate) fn block_score(&self, scorer: BlockScorer) -> Option<(ShaderSpec, Scored)> {
        let shape = self.shape;
        let (spec, scored) = match scorer.reads() {
            Reads::Nothing => return None,
            Reads::Codes => (block_score(shape), Scored::codes(shape)),
            Reads::Summary(summary) => (summary_score(shape, summary), Scored::SUMMARIES),
            Reads::Keys => (with_layout(exact_block_score(shape), self.layout), Scored::BLOCK),
        };
        Some((with_row_width(spec, self.row_width), scored))
    }

    /// What scores the tokens of candidates so, with what of them a workgroup scores.
    pub(crate) fn token_score(&self, scorer: TokenScorer) -> Option<(ShaderSpec, Scored)> {
        let shape = self.shape;
        let (spec, scored) = match scorer {
            TokenScorer::None => return None,
            TokenScorer::Codes => (token_score(shape), Scored::codes(shape)),
            TokenScorer::Oracle => {
                (with_layout(exact_token_score(shape), self.layout), Scored::BLOCK)
            }
        };
        Some((with_row_width(spec, self.row_width), scored))
    }

    /// What builds the codes of blocks.
    pub(crate) fn token_codes(&self) -> ShaderSpec {
        with_layout(token_codes(self.shape), self.layout)
    }

    /// What builds this summary of blocks.
    pub(crate) fn block_summary(&self, kept: &Summary) -> ShaderSpec {
        with_layout(block_summary(self.shape, kept), self.layout)
    }

    /// Level 1's scores. `segments` are those of what the scorer reads; codes are of these channels.
    pub(crate) async fn block_scores(
        &self,
        gpu: &Gpu,
        scorer: BlockScorer,
        with: &Scoring<'_>,
        channels: Option<&Binding<'_>>,
        segments: &[Segment<'_>],
    ) -> Result<ScoreOps> {
        let kernel = (self.block_score(scorer), scorer.reads());
        scores(gpu, kernel, (with, None), channels, segments).await
    }

    /// Level 2's scores, of the tokens of the blocks that are listed; otherwise likewise.
    pub(crate) async fn token_scores(
        &self,
        gpu: &Gpu,
        scorer: TokenScorer,
        (with, chosen_blocks): (&Scoring<'_>, &Binding<'_>),
        channels: Option<&Binding<'_>>,
        segments: &[Segment<'_>],
    ) -> Result<ScoreOps> {
        let kernel = (self.token_score(scorer), scorer.reads());
        scores(gpu, kernel, (with, Some(chosen_blocks)), channels, segments).await
    }

    /// What builds the codes of the blocks whose keys lie in this segment, in that one of the index.
    pub(crate) async fn build_codes(
        &self,
        gpu: &Gpu,
        step: Binding<'_>,
        (segment, kv): Segment<'_>,
        channels: Binding<'_>,
        (index_segment, codes): Segment<'_>,
    ) -> Result<Op> {
        let build = TokenCodes { step, segment, kv, channels, codes, index_segment };
        gpu.op(&self.token_codes(), build).await
    }

    /// What builds a summary of them.
    pub(crate) async fn build_summary(
        &self,
        gpu: &Gpu,
        step: Binding<'_>,
        (segment, kv): Segment<'_>,
        kept: &Summary,
        (index_segment, summary): Segment<'_>,
    ) -> Result<Op> {
        let build = BlockSummary { step, segment, kv, summary, index_segment };
        gpu.op(&self.block_summary(kept), build).await
    }
}

// The scores of a level, by a kernel that reads this: of all blocks, or of the tokens of those that are chosen.
async fn scores(
    gpu: &Gpu,
    (kernel, reads): (Option<(ShaderSpec, Scored)>, Reads),
    (with, chosen_blocks): (&Scoring<'_>, Option<&Binding<'_>>),
    channels: Option<&Binding<'_>>,
    segments: &[Segment<'_>],
) -> Result<ScoreOps> {
    let Some((spec, scored)) = kernel else {
        return Ok(ScoreOps { ops: Vec::new(), scored: Scored::BLOCK });
    };
    let mut ops = Vec::new();
    for (segment, read) in segments.iter().cloned() {
        let Scoring { step, qkv, scores, score_rows } = with.clone();
        ops.push(match (reads, chosen_blocks.cloned()) {
            (Reads::Codes, None) => {
                let (channels, codes) = (codes_of(channels)?, read);
                let bound = BlockScore { step, segment, qkv, channels, codes, scores, score_rows };
                gpu.op(&spec, bound).await?
            }
            (Reads::Codes, Some(chosen_blocks)) => {
                let (channels, codes) = (codes_of(channels)?, read);
                let bound = TokenScore {
                    step,
                    segment,
                    qkv,
                    channels,
                    codes,
                    chosen_blocks,
                    scores,
                    score_rows,
                };
                gpu.op(&spec, bound).await?
            }
            (Reads::Summary(_), _) => {
                let summary = read;
                let bound = SummaryScore { step, segment, qkv, summary, scores, score_rows };
                gpu.op(&spec, bound).await?
            }
            (Reads::Keys | Reads::Nothing, None) => {
                let kv = read;
                let bound = ExactBlockScore { step, segment, qkv, kv, scores, score_rows };
                gpu.op(&spec, bound).await?
            }
            (Reads::Keys | Reads::Nothing, Some(chosen_blocks)) => {
                let kv = read;
                let bound =
                    ExactTokenScore { step, segment, qkv, kv, chosen_blocks, scores, score_rows };
                gpu.op(&spec, bound).await?
            }
        });
    }
    Ok(ScoreOps { ops, scored })
}

fn codes_of<'a>(channels: Option<&Binding<'a>>) -> Result<Binding<'a>> {
    channels.cloned().ok_or_else(|| Error::Gpu("codes without channels".into()))
}
