//! The operations of two-level attention.

use super::{LayerKv, OpMaker};
use crate::Result;
use crate::attention::{BlockScorer, Divisor, KvLayout, Rank, Reads, Shape, TokenScorer, TwoLevel};
use crate::engine::scratch::Scratch;
use crate::gpu::{Binding, Op};
use crate::kernels::{
    self, Choice, ChoiceOps, FreezeParams, ScoreOps, Scoring, Segment, Selection, StrideParams,
};
use crate::kv::{CacheLayout, LayerIndex};

/// In the order of their numbers.
pub(super) const RANKS: [Rank; 2] = [Rank::Softmax, Rank::Plain];
/// Likewise.
const DIVISORS: [Divisor; 2] = [Divisor::Candidates, Divisor::Blocks];

/// The operations of two-level attention; vectors hold one a segment.
pub(in crate::engine) struct IndexOps {
    pub(in crate::engine) channel_stats: Op,
    /// Level 1's scores, by each scorer that this engine keeps for what it reads.
    block_scores: Vec<(BlockScorer, ScoreOps)>,
    /// Level 1's choice, by [`Rank`]; and by softmax where level 2 divides by its sums.
    blocks: [ChoiceOps; 2],
    blocks_with_sums: ChoiceOps,
    /// Level 2 over what level 1 chose.
    pub(in crate::engine) tokens: TokenOps,
    pub(in crate::engine) sparse_split: Vec<Op>,
}

/// Level 2 over the candidates of one list.
pub(in crate::engine) struct TokenOps {
    /// By [`Divisor`].
    code_scores: [ScoreOps; 2],
    /// Where all keys are on the GPU.
    exact_score: ScoreOps,
    /// By [`Divisor`].
    choices: [ChoiceOps; 2],
}

impl TokenOps {
    /// Records the scores of the tokens of up to `blocks` candidates.
    pub(in crate::engine) fn record_scores(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        by: &TwoLevel,
        blocks: u32,
        kv_heads: u32,
        rows: u32,
    ) {
        let codes = &self.code_scores[by.divisor() as usize];
        match by.token_scorer {
            TokenScorer::Codes => codes.record(pass, blocks, kv_heads, rows),
            TokenScorer::Oracle => self.exact_score.record(pass, blocks, kv_heads, rows),
            TokenScorer::None => {}
        }
    }

    /// Records the choice; `is_ranked` as of [`ChoiceOps::record`].
    pub(in crate::engine) fn record_choice(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        by: &TwoLevel,
        is_ranked: bool,
        kv_heads: u32,
        rows: u32,
    ) {
        self.choices[by.divisor() as usize].record(pass, is_ranked, kv_heads, rows);
    }
}

/// What builds the index of blocks that are sealed, segment by segment of the index.
pub(in crate::engine) struct SealingOps(Vec<Op>);

impl SealingOps {
    /// Records it for `blocks` blocks.
    pub(in crate::engine) fn record(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        kv_heads: u32,
        blocks: u32,
    ) {
        for op in &self.0 {
            op.record(pass, kv_heads, blocks, 1);
        }
    }
}

impl IndexOps {
    /// Records level 1's scores of up to `sealed` blocks.
    pub(in crate::engine) fn record_block_scores(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        scorer: BlockScorer,
        sealed: u32,
        kv_heads: u32,
        rows: u32,
    ) {
        for (_, scores) in self.block_scores.iter().filter(|(of, _)| *of == scorer) {
            scores.record(pass, sealed, kv_heads, rows);
        }
    }

    /// Level 1's choice from the scores of this block scorer.
    pub(in crate::engine) fn block_choice(&self, by: &TwoLevel) -> &ChoiceOps {
        match by.divisor() {
            Divisor::Candidates => &self.blocks[by.block_scorer.row().rank as usize],
            Divisor::Blocks => &self.blocks_with_sums,
        }
    }
}

// The kernels of a selection over the engine's keys and values, which are joined, and its rows of queries, keys and values.
pub(super) fn selection(shape: &Shape) -> Selection<'_> {
    Selection { shape, row_width: shape.row_width(), layout: KvLayout::Joined }
}

// What kernels that score bind of this scratch.
pub(super) fn scoring<'b>(scratch: &'b Scratch, score_rows: &'b wgpu::Buffer) -> Scoring<'b> {
    let [step, qkv, scores, score_rows] =
        [&scratch.step, &scratch.rows, &scratch.scores, score_rows].map(Binding::from);
    let [keys, head_terms] = [&scratch.keys, &scratch.head_terms].map(Binding::from);
    Scoring { step, qkv, scores, score_rows, keys, head_terms }
}

// Segments with their uniforms bound.
fn bound<'b>(segments: &'b [(wgpu::Buffer, Binding<'b>)]) -> Vec<Segment<'b>> {
    segments.iter().map(|(holds, segment)| (holds.into(), segment.clone())).collect()
}

impl OpMaker<'_> {
    pub(super) async fn index(
        &mut self,
        kv: &LayerKv<'_>,
        index: &LayerIndex,
        stats_tokens: u32,
    ) -> Result<IndexOps> {
        let (scratch, gpu, shape) = (self.scratch, self.gpu, self.shape);
        let stride = self.score_rows().await?;
        let scoring = scoring(scratch, &stride);
        let stats_of = kernels::ChannelStats {
            step: &scratch.step,
            qkv: &scratch.rows,
            stats: &index.state.stats,
        };
        let [by_softmax, plainly] =
            RANKS.map(|rank| (Choice::Blocks(rank, Divisor::Candidates), None));
        let with_sums = (Choice::Blocks(Rank::Softmax, Divisor::Blocks), None);
        let (selection, chosen) = (selection(&shape), &kv.chosen);
        let mut ops = IndexOps {
            channel_stats: gpu.op(&kernels::channel_stats(&shape, stats_tokens), stats_of).await?,
            block_scores: Vec::new(),
            blocks: [
                selection.choose(gpu, &scoring, by_softmax, chosen.clone()).await?,
                selection.choose(gpu, &scoring, plainly, chosen.clone()).await?,
            ],
            blocks_with_sums: selection.choose(gpu, &scoring, with_sums, chosen.clone()).await?,
            tokens: self.token_ops(kv, index, &kv.candidates).await?,
            sparse_split: Vec::new(),
        };
        for scorer in BlockScorer::all() {
            let scores = self.block_scores(scorer, kv, index, &scoring).await?;
            ops.block_scores.push((scorer, scores));
        }
        let spec = kernels::sparse_split(self.gpu.tier, &shape, kv.blocks.place());
        for segment in 0..kv.segments.len() {
            let chosen = Some(&scratch.chosen_tokens);
            ops.sparse_split.push(self.split(&spec, kv, segment, chosen, 0).await?);
        }
        Ok(ops)
    }

    /// How far apart the rows of scores are.
    pub(super) async fn score_rows(&mut self) -> Result<wgpu::Buffer> {
        let stride = self.shape.score_stride(self.options.context) as u32;
        self.uniform(StrideParams { stride }).await
    }

    /// Level 2 over the candidates of this list.
    pub(super) async fn token_ops(
        &mut self,
        kv: &LayerKv<'_>,
        index: &LayerIndex,
        list: &Binding<'_>,
    ) -> Result<TokenOps> {
        let (scratch, gpu, shape) = (self.scratch, self.gpu, self.shape);
        let stride = self.score_rows().await?;
        let scoring = scoring(scratch, &stride);
        let codes = self.segments(index.layout, &index.codes, shape.block_code_bytes()).await?;
        let keys = self.kv_segments(kv.layout, kv.all_keys()).await?;
        let (selection, with) = (selection(&shape), (&scoring, list));
        let channels = Binding::from(&index.state.channels);
        let (channels, codes, keys) = (Some(&channels), bound(&codes), bound(&keys));
        let [candidates, blocks] = DIVISORS.map(|divisor| (TokenScorer::Codes, divisor));
        let exact = (TokenScorer::Oracle, Divisor::Candidates);
        let choose = |divisor| {
            let choice = (Choice::Tokens(divisor), Some(list.clone()));
            selection.choose(gpu, &scoring, choice, (&scratch.chosen_tokens).into())
        };
        Ok(TokenOps {
            code_scores: [
                selection.token_scores(gpu, candidates, with, channels, &codes).await?,
                selection.token_scores(gpu, blocks, with, channels, &codes).await?,
            ],
            exact_score: selection.token_scores(gpu, exact, with, None, &keys).await?,
            choices: [choose(DIVISORS[0]).await?, choose(DIVISORS[1]).await?],
        })
    }

    // Level 1's scores by one scorer, segment by segment of what it reads; none where the engine does not keep that.
    async fn block_scores(
        &mut self,
        scorer: BlockScorer,
        cache: &LayerKv<'_>,
        index: &LayerIndex,
        scoring: &Scoring<'_>,
    ) -> Result<ScoreOps> {
        let (layout, shape) = (index.layout, self.shape);
        let segments = match scorer.reads() {
            Reads::Nothing => Vec::new(),
            Reads::Codes => self.segments(layout, &index.codes, shape.block_code_bytes()).await?,
            Reads::Summary(summary) => {
                let bytes = summary.block_bytes(&shape);
                self.segments(layout, index.summary(summary), bytes).await?
            }
            Reads::Keys => self.kv_segments(cache.layout, cache.all_keys()).await?,
        };
        let channels = Binding::from(&index.state.channels);
        let segments = bound(&segments);
        let selection = selection(&shape);
        selection.block_scores(self.gpu, scorer, scoring, Some(&channels), &segments).await
    }

    // Each segment, which must hold so many bytes of each of its blocks, with what says which blocks these are.
    async fn segments<'c>(
        &mut self,
        layout: CacheLayout,
        segments: &'c [wgpu::Buffer],
        block_bytes: u64,
    ) -> Result<Vec<(wgpu::Buffer, Binding<'c>)>> {
        let mut all = Vec::new();
        for (index, segment) in segments.iter().enumerate() {
            let holds = layout.segment(index as u32);
            let segment = Binding::from(segment).holding(u64::from(holds.blocks) * block_bytes);
            all.push((self.uniform(holds).await?, segment));
        }
        Ok(all)
    }

    /// The segments of keys and values.
    pub(super) async fn kv_segments<'c>(
        &mut self,
        layout: CacheLayout,
        segments: &'c [wgpu::Buffer],
    ) -> Result<Vec<(wgpu::Buffer, Binding<'c>)>> {
        self.segments(layout, segments, self.shape.block_bytes()).await
    }

    // What builds the index of blocks that are sealed whose keys and values lie in `kv`.
    pub(super) async fn sealing(
        &mut self,
        index: &LayerIndex,
        kv: &Binding<'_>,
        segment: &wgpu::Buffer,
    ) -> Result<SealingOps> {
        let (gpu, shape) = (self.gpu, self.shape);
        let (step, selection) = (Binding::from(&self.scratch.step), selection(&shape));
        let keys = (Binding::from(segment), kv.clone());
        let mut ops = SealingOps(Vec::new());
        let codes = self.segments(index.layout, &index.codes, shape.block_code_bytes()).await?;
        for codes in bound(&codes) {
            let (step, keys) = (step.clone(), keys.clone());
            let channels = (&index.state.channels).into();
            ops.0.push(selection.build_codes(gpu, step, keys, channels, codes).await?);
        }
        for (kept, segments) in &index.summaries {
            let bytes = kept.block_bytes(&shape);
            let summaries = self.segments(index.layout, segments, bytes).await?;
            for summary in bound(&summaries) {
                let (step, keys) = (step.clone(), keys.clone());
                ops.0.push(selection.build_summary(gpu, step, keys, kept, summary).await?);
            }
        }
        Ok(ops)
    }

    /// The operation that freezes the index channels of a slot.
    pub(in crate::engine) async fn choose_channels(
        &mut self,
        index: &LayerIndex,
        slot: u32,
    ) -> Result<Op> {
        let uniform = self.uniform(FreezeParams { sequence: slot }).await?;
        let choose = kernels::ChooseChannels {
            step: &self.scratch.step,
            freeze: &uniform,
            stats: &index.state.stats,
            channels: &index.state.channels,
        };
        self.gpu.op(&kernels::choose_channels(&self.shape), choose).await
    }
}
