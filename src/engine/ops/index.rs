//! The operations of two-level attention.

use super::{LayerKv, OpMaker};
use crate::Result;
use crate::attention::{BlockScorer, Rank, Reads, TokenScorer};
use crate::engine::scratch::Scratch;
use crate::gpu::{Binding, Op};
use crate::kernels::{self, FreezeParams, Scored, StrideParams};
use crate::kv::{CacheLayout, LayerIndex};

/// In the order of their numbers.
pub(super) const RANKS: [Rank; 2] = [Rank::Softmax, Rank::Plain];

/// The operations of two-level attention; vectors hold one a segment.
pub(in crate::engine) struct IndexOps {
    pub(in crate::engine) channel_stats: Op,
    /// Level 1's scores, by each scorer that this engine keeps for what it reads.
    block_scores: Vec<BlockScoreOps>,
    /// Level 1's choice, by [`Rank`].
    top_k_blocks: [Op; 2],
    /// Level 2 over what level 1 chose.
    pub(in crate::engine) tokens: TokenOps,
    pub(in crate::engine) sparse_split: Vec<Op>,
}

/// Scores of blocks by one scorer.
struct BlockScoreOps {
    scorer: BlockScorer,
    /// What a workgroup scores.
    scored: Scored,
    ops: Vec<Op>,
}

/// Level 2 over the candidates of one list.
pub(in crate::engine) struct TokenOps {
    /// What a workgroup scores by codes.
    scored: Scored,
    code_score: Vec<Op>,
    /// Where all keys are on the GPU.
    exact_score: Vec<Op>,
    top_k: Op,
}

impl TokenOps {
    /// Records the scores of the tokens of up to `blocks` candidates.
    pub(in crate::engine) fn record_scores(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        scorer: TokenScorer,
        blocks: u32,
        kv_heads: u32,
        rows: u32,
    ) {
        let (ops, x) = match scorer.reads() {
            Reads::Codes => (&self.code_score, self.scored.workgroups(blocks)),
            Reads::Keys => (&self.exact_score, blocks),
            Reads::Summary(_) | Reads::Nothing => return,
        };
        for op in ops {
            op.record(pass, x, kv_heads, rows);
        }
    }

    /// Records the choice.
    pub(in crate::engine) fn record_choice(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        kv_heads: u32,
        rows: u32,
    ) {
        self.top_k.record(pass, kv_heads, rows, 1);
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
        for scores in self.block_scores.iter().filter(|scores| scores.scorer == scorer) {
            for op in &scores.ops {
                op.record(pass, scores.scored.workgroups(sealed), kv_heads, rows);
            }
        }
    }

    /// Level 1's choice from the scores of this scorer.
    pub(in crate::engine) fn top_k_blocks(&self, scorer: BlockScorer) -> &Op {
        &self.top_k_blocks[scorer.row().rank as usize]
    }
}

// A choice by this scratch's scores, to or from these lists.
pub(super) fn top_k<'b>(
    scratch: &'b Scratch,
    score_rows: &'b wgpu::Buffer,
    chosen: Binding<'b>,
) -> kernels::TopK<Binding<'b>> {
    kernels::TopK {
        step: (&scratch.step).into(),
        score_rows: score_rows.into(),
        scores: (&scratch.scores).into(),
        keys: (&scratch.keys).into(),
        chosen,
        chosen_blocks: None,
        hot_slots: None,
    }
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
        let chosen = top_k(scratch, &stride, kv.chosen.clone());
        let stats_of = kernels::ChannelStats {
            step: &scratch.step,
            qkv: &scratch.rows,
            stats: &index.state.stats,
        };
        let [by_softmax, plainly] =
            RANKS.map(|rank| kernels::top_k_blocks(gpu.tier, &shape, rank, None));
        let mut ops = IndexOps {
            channel_stats: gpu.op(&kernels::channel_stats(&shape, stats_tokens), stats_of).await?,
            block_scores: Vec::new(),
            top_k_blocks: [
                gpu.op(&by_softmax, chosen.clone()).await?,
                gpu.op(&plainly, chosen).await?,
            ],
            tokens: self.token_ops(kv, index, &kv.candidates).await?,
            sparse_split: Vec::new(),
        };
        for scorer in BlockScorer::all() {
            ops.block_scores.push(self.block_scores(scorer, kv, index, &stride).await?);
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
        let choice = kernels::TopK {
            chosen_blocks: Some(list.clone()),
            ..top_k(scratch, &stride, (&scratch.chosen_tokens).into())
        };
        let mut ops = TokenOps {
            scored: Scored::codes(&shape),
            code_score: Vec::new(),
            exact_score: Vec::new(),
            top_k: gpu.op(&kernels::top_k_tokens(gpu.tier, &shape), choice).await?,
        };
        let spec = kernels::token_score(&shape);
        let codes = self.segments(index.layout, &index.codes, shape.block_code_bytes()).await?;
        for (segment, codes) in &codes {
            let candidates = kernels::TokenScore {
                step: (&scratch.step).into(),
                segment: segment.into(),
                qkv: (&scratch.rows).into(),
                channels: (&index.state.channels).into(),
                codes: codes.clone(),
                chosen_blocks: list.clone(),
                scores: (&scratch.scores).into(),
                score_rows: (&stride).into(),
            };
            ops.code_score.push(gpu.op(&spec, candidates).await?);
        }
        let spec = kernels::exact_token_score(&shape);
        for (segment, kv) in &self.kv_segments(kv.layout, kv.all_keys()).await? {
            let candidates = kernels::ExactTokenScore {
                step: (&scratch.step).into(),
                segment: segment.into(),
                qkv: (&scratch.rows).into(),
                kv: kv.clone(),
                chosen_blocks: list.clone(),
                scores: (&scratch.scores).into(),
                score_rows: (&stride).into(),
            };
            ops.exact_score.push(gpu.op(&spec, candidates).await?);
        }
        Ok(ops)
    }

    // Level 1's scores by one scorer, segment by segment of what it reads; none where the engine does not keep that.
    async fn block_scores(
        &mut self,
        scorer: BlockScorer,
        cache: &LayerKv<'_>,
        index: &LayerIndex,
        score_rows: &wgpu::Buffer,
    ) -> Result<BlockScoreOps> {
        let (gpu, layout, shape) = (self.gpu, index.layout, &self.shape.clone());
        let channels = Binding::from(&index.state.channels);
        let [step, qkv, scores] =
            [&self.scratch.step, &self.scratch.rows, &self.scratch.scores].map(Binding::from);
        let score_rows = Binding::from(score_rows);
        let mut made = BlockScoreOps { scorer, scored: Scored::BLOCK, ops: Vec::new() };
        match scorer.reads() {
            Reads::Nothing => {}
            Reads::Codes => {
                made.scored = Scored::codes(shape);
                let spec = kernels::block_score(shape);
                let codes = self.segments(layout, &index.codes, shape.block_code_bytes()).await?;
                for (segment, codes) in &codes {
                    let blocks = kernels::BlockScore {
                        step: step.clone(),
                        segment: segment.into(),
                        qkv: qkv.clone(),
                        channels: channels.clone(),
                        codes: codes.clone(),
                        scores: scores.clone(),
                        score_rows: score_rows.clone(),
                    };
                    made.ops.push(gpu.op(&spec, blocks).await?);
                }
            }
            Reads::Summary(summary) => {
                made.scored = Scored::SUMMARIES;
                let spec = kernels::summary_score(shape, summary);
                let bytes = summary.block_bytes(shape);
                let segments = self.segments(layout, index.summary(summary), bytes).await?;
                for (segment, summary) in &segments {
                    let blocks = kernels::SummaryScore {
                        step: step.clone(),
                        segment: segment.into(),
                        qkv: qkv.clone(),
                        summary: summary.clone(),
                        scores: scores.clone(),
                        score_rows: score_rows.clone(),
                    };
                    made.ops.push(gpu.op(&spec, blocks).await?);
                }
            }
            Reads::Keys => {
                let spec = kernels::exact_block_score(shape);
                for (segment, kv) in &self.kv_segments(cache.layout, cache.all_keys()).await? {
                    let blocks = kernels::ExactBlockScore {
                        step: step.clone(),
                        segment: segment.into(),
                        qkv: qkv.clone(),
                        kv: kv.clone(),
                        scores: scores.clone(),
                        score_rows: score_rows.clone(),
                    };
                    made.ops.push(gpu.op(&spec, blocks).await?);
                }
            }
        }
        Ok(made)
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
        let (scratch, gpu, shape) = (self.scratch, self.gpu, &self.shape.clone());
        let mut ops = SealingOps(Vec::new());
        let codes = self.segments(index.layout, &index.codes, shape.block_code_bytes()).await?;
        for (index_segment, codes) in codes {
            let build = kernels::TokenCodes {
                step: (&scratch.step).into(),
                segment: segment.into(),
                kv: kv.clone(),
                channels: (&index.state.channels).into(),
                codes,
                index_segment: (&index_segment).into(),
            };
            ops.0.push(gpu.op(&kernels::token_codes(shape), build).await?);
        }
        for (kept, segments) in &index.summaries {
            let bytes = kept.block_bytes(shape);
            for (index_segment, summary) in self.segments(index.layout, segments, bytes).await? {
                let build = kernels::BlockSummary {
                    step: (&scratch.step).into(),
                    segment: segment.into(),
                    kv: kv.clone(),
                    summary,
                    index_segment: (&index_segment).into(),
                };
                ops.0.push(gpu.op(&kernels::block_summary(shape, kept), build).await?);
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
