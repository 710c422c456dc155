//! The kernels of a selection with what they read bound: engines and operators have them alike.

use super::attend::HotSlots;
use super::attend::{with_layout, with_row_width};
use super::index::{BlockSummary, TokenCodes, block_summary, token_codes};
use super::select::{
    BlockScore, ExactBlockScore, ExactTokenScore, HEAD_RANKS_WORKGROUPS, HeadRanks, HeadSums,
    Items, Scored, SummaryScore, TokenScore, TopK, block_score, exact_block_score,
    exact_token_score, head_ranks, head_sums, makes_token_ranks, ranks_apart, summary_score,
    token_score, top_k_blocks, top_k_tokens,
};
use crate::attention::{BlockScorer, Divisor, KvLayout, Rank, Reads, Shape, Summary, TokenScorer};
use crate::gpu::{Binding, Gpu, Op, ShaderSpec, Tier};
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
    /// Scratch of choices: keys, and terms of query heads.
    pub(crate) keys: Binding<'a>,
    pub(crate) head_terms: Binding<'a>,
}

impl<'a> Scoring<'a> {
    // What a choice by these scores binds, with a list for what it chooses; of what, is the caller's to add.
    fn top_k(&self, chosen: Binding<'a>) -> TopK<Binding<'a>> {
        let Self { step, scores, score_rows, keys, .. } = self.clone();
        let (chosen_blocks, hot_slots, head_terms) = (None, None, None);
        TopK { step, score_rows, scores, keys, chosen, chosen_blocks, hot_slots, head_terms }
    }
}

/// What a level chooses among.
#[derive(Clone, Copy)]
pub(crate) enum Choice {
    /// Blocks by scores that rank so; the tokens' scores are divided by this.
    Blocks(Rank, Divisor),
    /// Those alone that have a slot in the hot cache.
    Resident(Rank, HotSlots),
    /// Tokens of the blocks that are chosen.
    Tokens(Divisor),
}

impl Choice {
    fn items(self) -> (Items, Rank) {
        match self {
            Self::Blocks(rank, _) | Self::Resident(rank, _) => (Items::Blocks, rank),
            Self::Tokens(_) => (Items::Tokens, Rank::Softmax),
        }
    }
}

/// The kernels of a choice.
pub(crate) struct ChoiceSpecs {
    /// What softmaxes query heads' scores, and what ranks by that, where top-k or what scores does not do it itself.
    sums: Option<ShaderSpec>,
    ranks: Option<ShaderSpec>,
    top_k: ShaderSpec,
}

impl ChoiceSpecs {
    /// All of them.
    pub(crate) fn all(self) -> impl Iterator<Item = ShaderSpec> {
        self.sums.into_iter().chain(self.ranks).chain([self.top_k])
    }
}

/// The choice of a level by its scores.
pub(crate) struct ChoiceOps {
    /// As of [`ChoiceSpecs`], with the number of query heads.
    sums: Option<(Op, u32)>,
    ranks: Option<Op>,
    top_k: Op,
}

impl ChoiceOps {
    /// Records the choice for these rows; `is_ranked` says whether they have scores: one of them has more than it keeps, or its tokens
    /// are ranked by what the blocks' scores come to.
    pub(crate) fn record(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        is_ranked: bool,
        kv_heads: u32,
        rows: u32,
    ) {
        if let (true, Some((sums, heads))) = (is_ranked, &self.sums) {
            sums.record(pass, *heads, rows, 1);
        }
        if let (true, Some(ranks)) = (is_ranked, &self.ranks) {
            ranks.record(pass, HEAD_RANKS_WORKGROUPS, kv_heads, rows);
        }
        self.top_k.record(pass, kv_heads, rows, 1);
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
    pub(crate) fn block_score(
        &self,
        tier: &Tier,
        scorer: BlockScorer,
    ) -> Option<(ShaderSpec, Scored)> {
        let shape = self.shape;
        let (spec, scored) = match scorer.reads() {
            Reads::Nothing => return None,
            Reads::Codes => (block_score(tier, shape), Scored::codes(shape)),
            Reads::Summary(summary) => (summary_score(shape, summary), Scored::SUMMARIES),
            Reads::Keys => (with_layout(exact_block_score(shape), self.layout), Scored::BLOCK),
        };
        Some((with_row_width(spec, self.row_width), scored))
    }

    /// What scores the tokens of candidates so, with what of them a workgroup scores.
    pub(crate) fn token_score(
        &self,
        tier: &Tier,
        scorer: TokenScorer,
        divisor: Divisor,
    ) -> Option<(ShaderSpec, Scored)> {
        let shape = self.shape;
        let (spec, scored) = match scorer {
            TokenScorer::None => return None,
            TokenScorer::Codes => (token_score(tier, shape, divisor), Scored::codes(shape)),
            TokenScorer::Oracle => {
                (with_layout(exact_token_score(shape), self.layout), Scored::BLOCK)
            }
        };
        Some((with_row_width(spec, self.row_width), scored))
    }

    /// What chooses: the kernel, and before it those that make its ranks, where it does not.
    pub(crate) fn choice(&self, tier: &Tier, choice: Choice) -> ChoiceSpecs {
        let shape = self.shape;
        let (items, rank) = choice.items();
        // Level 1's sums serve where those are the divisors.
        let (has_sums, has_ranks) = match choice {
            Choice::Tokens(Divisor::Blocks) => (false, !makes_token_ranks(shape, Divisor::Blocks)),
            _ => (ranks_apart(shape, rank), ranks_apart(shape, rank)),
        };
        let top_k = match choice {
            Choice::Blocks(_, divisor) => top_k_blocks(tier, shape, (rank, divisor), None),
            Choice::Resident(_, slots) => {
                top_k_blocks(tier, shape, (rank, Divisor::Candidates), Some(slots))
            }
            Choice::Tokens(divisor) => top_k_tokens(tier, shape, divisor),
        };
        ChoiceSpecs {
            sums: has_sums.then(|| head_sums(tier, shape, items)),
            ranks: has_ranks.then(|| head_ranks(tier, shape, items)),
            top_k,
        }
    }

    /// The choice, to a list. `of` is what it reads beside scores: the table of slots, or the blocks whose tokens these are.
    pub(crate) async fn choose<'b>(
        &self,
        gpu: &Gpu,
        with: &Scoring<'b>,
        (choice, of): (Choice, Option<Binding<'b>>),
        chosen: Binding<'b>,
    ) -> Result<ChoiceOps> {
        let ChoiceSpecs { sums, ranks, top_k } = self.choice(gpu.tier, choice);
        let Scoring { step, scores, score_rows, keys, head_terms, .. } = with.clone();
        let mut bound = with.top_k(chosen);
        match choice {
            Choice::Blocks(Rank::Softmax, Divisor::Blocks) if sums.is_none() => {
                bound.head_terms = Some(head_terms.clone());
            }
            Choice::Blocks(..) => {}
            Choice::Resident(..) => bound.hot_slots = of,
            Choice::Tokens(_) => bound.chosen_blocks = of,
        }
        let sums = match sums {
            None => None,
            Some(spec) => {
                let bound = HeadSums {
                    step: step.clone(),
                    score_rows: score_rows.clone(),
                    scores: scores.clone(),
                    head_terms: head_terms.clone(),
                };
                Some((gpu.op(&spec, bound).await?, self.shape.q_heads()))
            }
        };
        let ranks = match ranks {
            None => None,
            Some(spec) => {
                let bound = HeadRanks { step, score_rows, scores, head_terms, keys };
                Some(gpu.op(&spec, bound).await?)
            }
        };
        Ok(ChoiceOps { sums, ranks, top_k: gpu.op(&top_k, bound).await? })
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
        let kernel = (self.block_score(gpu.tier, scorer), scorer.reads());
        scores(gpu, kernel, with, None, channels, segments).await
    }

    /// Level 2's scores, of the tokens of the blocks that are listed, or what is made of them for this divisor; otherwise likewise.
    pub(crate) async fn token_scores(
        &self,
        gpu: &Gpu,
        (scorer, divisor): (TokenScorer, Divisor),
        (with, chosen_blocks): (&Scoring<'_>, &Binding<'_>),
        channels: Option<&Binding<'_>>,
        segments: &[Segment<'_>],
    ) -> Result<ScoreOps> {
        let kernel = (self.token_score(gpu.tier, scorer, divisor), scorer.reads());
        let is_rank = scorer == TokenScorer::Codes && makes_token_ranks(self.shape, divisor);
        let tokens = Tokens { chosen_blocks, is_rank };
        scores(gpu, kernel, with, Some(tokens), channels, segments).await
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

// Level 2's candidates, and whether their tokens are ranked as they are scored.
#[derive(Clone, Copy)]
struct Tokens<'a> {
    chosen_blocks: &'a Binding<'a>,
    is_rank: bool,
}

// The scores of a level, by a kernel that reads this: of all blocks, or of the tokens of those that are chosen.
async fn scores(
    gpu: &Gpu,
    (kernel, reads): (Option<(ShaderSpec, Scored)>, Reads),
    with: &Scoring<'_>,
    tokens: Option<Tokens<'_>>,
    channels: Option<&Binding<'_>>,
    segments: &[Segment<'_>],
) -> Result<ScoreOps> {
    let Some((spec, scored)) = kernel else {
        return Ok(ScoreOps { ops: Vec::new(), scored: Scored::BLOCK });
    };
    let mut ops = Vec::new();
    for (segment, read) in segments.iter().cloned() {
        let Scoring { step, qkv, scores, score_rows, .. } = with.clone();
        let chosen_blocks = tokens.map(|tokens| tokens.chosen_blocks.clone());
        ops.push(match (reads, chosen_blocks) {
            (Reads::Codes, None) => {
                let (channels, codes) = (codes_of(channels)?, read);
                let bound = BlockScore { step, segment, qkv, channels, codes, scores, score_rows };
                gpu.op(&spec, bound).await?
            }
            (Reads::Codes, Some(chosen_blocks)) => {
                let (channels, codes) = (codes_of(channels)?, read);
                let is_rank = tokens.is_some_and(|tokens| tokens.is_rank);
                let scores = if is_rank { with.keys.clone() } else { scores };
                let bound = TokenScore {
                    step,
                    segment,
                    qkv,
                    channels,
                    codes,
                    chosen_blocks,
                    scores,
                    score_rows,
                    head_terms: is_rank.then(|| with.head_terms.clone()),
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
