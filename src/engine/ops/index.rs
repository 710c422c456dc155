//! The operations of two-level attention.

use super::OpMaker;
use crate::Result;
use crate::attention::{BlockScorer, Rank, Reads, Shape, TokenScorer};
use crate::gpu::Op;
use crate::kernels::{self, FreezeParams, Place, StrideParams};
use crate::kv::{CacheLayout, IndexState, LayerCache};

/// In the order of their numbers.
const RANKS: [Rank; 2] = [Rank::Softmax, Rank::Plain];

/// The operations of two-level attention; vectors hold one a segment.
pub(in crate::engine) struct IndexOps {
    pub(in crate::engine) channel_stats: Op,
    pub(in crate::engine) sealing: Vec<SealingOps>,
    /// Blocks that a workgroup scores by their codes.
    scored_blocks: u32,
    /// Level 1's scores, by each scorer that this engine keeps for what it reads.
    block_scores: Vec<BlockScoreOps>,
    /// Level 1's choice, by [`Rank`].
    top_k_blocks: [Op; 2],
    /// Level 2 by where its candidates are listed: where level 1 lists them, and in a hot cache also where the host does.
    tokens: Vec<TokenOps>,
    pub(in crate::engine) sparse_split: Vec<Op>,
    /// Over a hot cache: attention of what arrived in this step.
    pub(in crate::engine) arrived_split: Vec<Op>,
    /// Over a hot cache: level 1's choice among blocks that have a slot, to where the host lists candidates.
    top_k_resident: Option<[Op; 2]>,
    /// Per-sequence state, by slot.
    pub(in crate::engine) stats: wgpu::Buffer,
    pub(in crate::engine) channels: wgpu::Buffer,
}

/// Scores of blocks by one scorer.
struct BlockScoreOps {
    scorer: BlockScorer,
    /// Blocks that a workgroup scores.
    blocks: u32,
    ops: Vec<Op>,
}

/// Level 2 over the candidates of one list.
struct TokenOps {
    code_score: Vec<Op>,
    exact_score: Vec<Op>,
    top_k: Op,
}

/// Which list level 2 takes its candidates from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum Candidates {
    /// What level 1 chose in this step.
    Chosen,
    /// What the host listed, or what level 1 chose among blocks that have a slot.
    Listed,
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
                op.record(pass, sealed.div_ceil(scores.blocks), kv_heads, rows);
            }
        }
    }

    /// Level 1's choice from the scores of this scorer.
    pub(in crate::engine) fn top_k_blocks(&self, scorer: BlockScorer) -> &Op {
        &self.top_k_blocks[scorer.row().rank as usize]
    }

    /// Level 1's choice among blocks that have a slot in the hot cache.
    pub(in crate::engine) fn top_k_resident(&self, scorer: BlockScorer) -> Option<&Op> {
        self.top_k_resident.as_ref().map(|ops| &ops[scorer.row().rank as usize])
    }

    /// Records level 2's scores of the tokens of up to `blocks` candidates.
    pub(in crate::engine) fn record_token_scores(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        candidates: Candidates,
        scorer: TokenScorer,
        blocks: u32,
        kv_heads: u32,
        rows: u32,
    ) {
        let tokens = &self.tokens[candidates as usize];
        let (ops, x) = match scorer.reads() {
            Reads::Codes => (&tokens.code_score, blocks.div_ceil(self.scored_blocks)),
            Reads::Keys => (&tokens.exact_score, blocks),
            Reads::Summary(_) | Reads::Nothing => return,
        };
        for op in ops {
            op.record(pass, x, kv_heads, rows);
        }
    }

    /// Level 2's choice.
    pub(in crate::engine) fn top_k_tokens(&self, candidates: Candidates) -> &Op {
        &self.tokens[candidates as usize].top_k
    }
}

impl OpMaker<'_> {
    pub(super) async fn index(
        &mut self,
        shape: &Shape,
        layer: usize,
        cache: &LayerCache,
        stats_tokens: u32,
    ) -> Result<IndexOps> {
        let (scratch, gpu) = (self.scratch, self.gpu);
        let state = cache.state.as_ref().expect("a cache with an index has its state");
        let IndexState { stats, channels } = state;
        let stride = shape.score_stride(self.options.context) as u32;
        let stride = self.uniform(StrideParams { stride }).await?;
        let lists = scratch.lists(layer);
        let top_k = |chosen| kernels::TopK {
            step: (&scratch.step).into(),
            score_rows: (&stride).into(),
            scores: (&scratch.scores).into(),
            keys: (&scratch.keys).into(),
            chosen,
            chosen_blocks: None,
            hot_slots: None,
        };
        let chosen = top_k(scratch.chosen(layer));
        let stats_of = kernels::ChannelStats { step: &scratch.step, qkv: &scratch.rows, stats };
        let [by_softmax, plainly] =
            RANKS.map(|rank| kernels::top_k_blocks(gpu.tier, shape, rank, None));
        let mut ops = IndexOps {
            channel_stats: gpu.op(&kernels::channel_stats(shape, stats_tokens), stats_of).await?,
            sealing: Vec::new(),
            scored_blocks: kernels::scored_blocks(shape),
            block_scores: Vec::new(),
            top_k_blocks: [
                gpu.op(&by_softmax, chosen.clone()).await?,
                gpu.op(&plainly, chosen).await?,
            ],
            tokens: Vec::new(),
            sparse_split: Vec::new(),
            arrived_split: Vec::new(),
            top_k_resident: None,
            stats: stats.clone(),
            channels: channels.clone(),
        };
        let top_k_tokens = kernels::top_k_tokens(gpu.tier, shape);
        for list in &lists {
            let tokens = kernels::TopK {
                chosen_blocks: Some(list.clone()),
                ..top_k((&scratch.chosen_tokens).into())
            };
            let top_k = gpu.op(&top_k_tokens, tokens).await?;
            ops.tokens.push(TokenOps { code_score: Vec::new(), exact_score: Vec::new(), top_k });
        }
        for scorer in BlockScorer::all() {
            ops.block_scores
                .push(self.block_scores(scorer, shape, cache, channels, &stride).await?);
        }
        for (index, codes) in cache.codes.iter().enumerate() {
            let segment = self.uniform(self.index_layout.segment(index as u32)).await?;
            for (list, tokens) in lists.iter().zip(&mut ops.tokens) {
                let candidates = kernels::TokenScore {
                    step: (&scratch.step).into(),
                    segment: (&segment).into(),
                    qkv: (&scratch.rows).into(),
                    channels: channels.into(),
                    codes: codes.into(),
                    chosen_blocks: list.clone(),
                    scores: (&scratch.scores).into(),
                    score_rows: (&stride).into(),
                };
                tokens.code_score.push(gpu.op(&kernels::token_score(shape), candidates).await?);
            }
        }
        for (index, kv) in cache.kv.iter().enumerate() {
            let segment = self.uniform(self.layout.segment(index as u32)).await?;
            ops.sealing.push(self.sealing(shape, cache, kv, &segment, channels).await?);
            if cache.slots.is_none() {
                let candidates = kernels::ExactTokenScore {
                    step: (&scratch.step).into(),
                    segment: (&segment).into(),
                    qkv: (&scratch.rows).into(),
                    kv: kv.into(),
                    chosen_blocks: lists[0].clone(),
                    scores: (&scratch.scores).into(),
                    score_rows: (&stride).into(),
                };
                let spec = kernels::exact_token_score(shape);
                ops.tokens[0].exact_score.push(gpu.op(&spec, candidates).await?);
            }
            let chosen = Some(&scratch.chosen_tokens);
            let spec = kernels::sparse_split(shape, self.place());
            ops.sparse_split.push(self.split(&spec, cache, index, chosen, 0).await?);
            if let Some(slots) = self.hot {
                let spec = kernels::sparse_split(shape, Place::Arrived(slots));
                let first = self.layout.segments;
                ops.arrived_split.push(self.split(&spec, cache, index, chosen, first).await?);
            }
        }
        if let (Some(slots), Some(table)) = (self.hot, &cache.slots) {
            // What level 1 chooses among them goes to where the host lists candidates.
            let resident =
                kernels::TopK { hot_slots: Some(table.into()), ..top_k(lists[1].clone()) };
            let [by_softmax, plainly] =
                RANKS.map(|rank| kernels::top_k_blocks(gpu.tier, shape, rank, Some(slots)));
            ops.top_k_resident = Some([
                gpu.op(&by_softmax, resident.clone()).await?,
                gpu.op(&plainly, resident).await?,
            ]);
        }
        Ok(ops)
    }

    // Level 1's scores by one scorer, segment by segment of what it reads; none where the engine does not keep that.
    async fn block_scores(
        &mut self,
        scorer: BlockScorer,
        shape: &Shape,
        cache: &LayerCache,
        channels: &wgpu::Buffer,
        score_rows: &wgpu::Buffer,
    ) -> Result<BlockScoreOps> {
        let (gpu, index) = (self.gpu, self.index_layout);
        let (step, qkv, scores) = (&self.scratch.step, &self.scratch.rows, &self.scratch.scores);
        let mut made = BlockScoreOps { scorer, blocks: 1, ops: Vec::new() };
        match scorer.reads() {
            Reads::Nothing => {}
            Reads::Codes => {
                made.blocks = kernels::scored_blocks(shape);
                let spec = kernels::block_score(shape);
                for (segment, codes) in &self.segments(index, &cache.codes).await? {
                    let blocks = kernels::BlockScore {
                        step,
                        segment,
                        qkv,
                        channels,
                        codes,
                        scores,
                        score_rows,
                    };
                    made.ops.push(gpu.op(&spec, blocks).await?);
                }
            }
            Reads::Summary(summary) => {
                made.blocks = kernels::SCORED_SUMMARIES;
                let spec = kernels::summary_score(shape, summary);
                for (segment, summary) in &self.segments(index, cache.summary(summary)).await? {
                    let blocks =
                        kernels::SummaryScore { step, segment, qkv, summary, scores, score_rows };
                    made.ops.push(gpu.op(&spec, blocks).await?);
                }
            }
            // A hot cache has but some of the keys.
            Reads::Keys if cache.slots.is_some() => {}
            Reads::Keys => {
                let spec = kernels::exact_block_score(shape);
                for (segment, kv) in &self.segments(self.layout, &cache.kv).await? {
                    let blocks =
                        kernels::ExactBlockScore { step, segment, qkv, kv, scores, score_rows };
                    made.ops.push(gpu.op(&spec, blocks).await?);
                }
            }
        }
        Ok(made)
    }

    // Each segment with what says which blocks it holds.
    async fn segments<'c>(
        &mut self,
        layout: CacheLayout,
        segments: &'c [wgpu::Buffer],
    ) -> Result<Vec<(wgpu::Buffer, &'c wgpu::Buffer)>> {
        let mut all = Vec::new();
        for (index, segment) in segments.iter().enumerate() {
            all.push((self.uniform(layout.segment(index as u32)).await?, segment));
        }
        Ok(all)
    }

    // What builds the index of blocks that are sealed whose keys and values lie in `kv`.
    pub(super) async fn sealing(
        &mut self,
        shape: &Shape,
        cache: &LayerCache,
        kv: &wgpu::Buffer,
        segment: &wgpu::Buffer,
        channels: &wgpu::Buffer,
    ) -> Result<SealingOps> {
        let (scratch, gpu) = (self.scratch, self.gpu);
        let mut ops = SealingOps(Vec::new());
        for (index, codes) in cache.codes.iter().enumerate() {
            let index_segment = self.uniform(self.index_layout.segment(index as u32)).await?;
            let build = kernels::TokenCodes {
                step: &scratch.step,
                segment,
                kv,
                channels,
                codes,
                index_segment: &index_segment,
            };
            ops.0.push(gpu.op(&kernels::token_codes(shape), build).await?);
            for (kept, segments) in &cache.summaries {
                let build = kernels::BlockSummary {
                    step: &scratch.step,
                    segment,
                    kv,
                    summary: &segments[index],
                    index_segment: &index_segment,
                };
                ops.0.push(gpu.op(&kernels::block_summary(shape, kept), build).await?);
            }
        }
        Ok(ops)
    }

    /// The operation that freezes the index channels of a slot.
    pub(in crate::engine) async fn choose_channels(
        &mut self,
        index: &IndexOps,
        slot: u32,
    ) -> Result<Op> {
        let uniform = self.uniform(FreezeParams { sequence: slot }).await?;
        let choose = kernels::ChooseChannels {
            step: &self.scratch.step,
            freeze: &uniform,
            stats: &index.stats,
            channels: &index.channels,
        };
        self.gpu.op(&kernels::choose_channels(&self.shape), choose).await
    }
}
