//! The operations of two-level attention.

use super::OpMaker;
use crate::Result;
use crate::attention::{BlockScorer, Shape, TokenScorer};
use crate::engine::scratch::score_stride;
use crate::gpu::Op;
use crate::kernels::{self, FreezeParams, Place, StrideParams};
use crate::kv::LayerCache;

/// The operations of two-level attention; vectors hold one a segment.
pub(in crate::engine) struct IndexOps {
    pub(in crate::engine) channel_stats: Op,
    pub(in crate::engine) sealing: Vec<SealingOps>,
    /// Blocks that a workgroup scores by their codes.
    scored_blocks: u32,
    code_block_score: Vec<Op>,
    bounds_score: Vec<Op>,
    exact_block_score: Vec<Op>,
    top_k_by_softmax: Op,
    top_k_by_score: Op,
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
        let (ops, x) = match scorer {
            BlockScorer::Codes => (&self.code_block_score, sealed.div_ceil(self.scored_blocks)),
            BlockScorer::MinMax => (&self.bounds_score, sealed.div_ceil(4)),
            BlockScorer::Oracle => (&self.exact_block_score, sealed),
            BlockScorer::None => return,
        };
        for op in ops {
            op.record(pass, x, kv_heads, rows);
        }
    }

    /// Level 1's choice from the scores of this scorer.
    pub(in crate::engine) fn top_k_blocks(&self, scorer: BlockScorer) -> &Op {
        match scorer {
            BlockScorer::MinMax => &self.top_k_by_score,
            BlockScorer::Codes | BlockScorer::None | BlockScorer::Oracle => &self.top_k_by_softmax,
        }
    }

    /// Level 1's choice among blocks that have a slot in the hot cache.
    pub(in crate::engine) fn top_k_resident(&self, scorer: BlockScorer) -> Option<&Op> {
        self.top_k_resident.as_ref().map(|ops| &ops[usize::from(scorer == BlockScorer::MinMax)])
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
        let (ops, x) = match scorer {
            TokenScorer::Codes => (&tokens.code_score, blocks.div_ceil(self.scored_blocks)),
            TokenScorer::Oracle => (&tokens.exact_score, blocks),
            TokenScorer::None => return,
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
        let slots = u64::from(self.options.sessions);
        let stats = gpu.storage("channel statistics", slots * shape.stats_len() * 4).await?;
        let channels = gpu.storage("index channels", slots * shape.channels_len() * 4).await?;
        let stride = score_stride(self.options) as u32;
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
        let stats_of =
            kernels::ChannelStats { step: &scratch.step, qkv: &scratch.rows, stats: &stats };
        let [by_softmax, by_score] = [BlockScorer::Codes, BlockScorer::MinMax]
            .map(|scorer| kernels::top_k_blocks(gpu.tier, shape, scorer, None));
        let mut ops = IndexOps {
            channel_stats: gpu.op(&kernels::channel_stats(shape, stats_tokens), stats_of).await?,
            sealing: Vec::new(),
            scored_blocks: kernels::scored_blocks(shape),
            code_block_score: Vec::new(),
            bounds_score: Vec::new(),
            exact_block_score: Vec::new(),
            top_k_by_softmax: gpu.op(&by_softmax, chosen.clone()).await?,
            top_k_by_score: gpu.op(&by_score, chosen).await?,
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
        for (index, codes) in cache.codes.iter().enumerate() {
            let segment = self.uniform(self.index_layout.segment(index as u32)).await?;
            let blocks = kernels::BlockScore {
                step: &scratch.step,
                segment: &segment,
                qkv: &scratch.rows,
                channels: &channels,
                codes,
                scores: &scratch.scores,
                score_rows: &stride,
            };
            ops.code_block_score.push(gpu.op(&kernels::block_score(shape), blocks).await?);
            for (list, tokens) in lists.iter().zip(&mut ops.tokens) {
                let candidates = kernels::TokenScore {
                    step: (&scratch.step).into(),
                    segment: (&segment).into(),
                    qkv: (&scratch.rows).into(),
                    channels: (&channels).into(),
                    codes: codes.into(),
                    chosen_blocks: list.clone(),
                    scores: (&scratch.scores).into(),
                    score_rows: (&stride).into(),
                };
                tokens.code_score.push(gpu.op(&kernels::token_score(shape), candidates).await?);
            }
            if let Some(bounds) = cache.bounds.get(index) {
                let blocks = kernels::BoundsScore {
                    step: &scratch.step,
                    segment: &segment,
                    qkv: &scratch.rows,
                    bounds,
                    scores: &scratch.scores,
                    score_rows: &stride,
                };
                ops.bounds_score.push(gpu.op(&kernels::bounds_score(shape), blocks).await?);
            }
        }
        for (index, kv) in cache.kv.iter().enumerate() {
            let segment = self.uniform(self.layout.segment(index as u32)).await?;
            ops.sealing.push(self.sealing(shape, cache, kv, &segment, &channels).await?);
            if cache.slots.is_none() {
                let blocks = kernels::ExactBlockScore {
                    step: &scratch.step,
                    segment: &segment,
                    qkv: &scratch.rows,
                    kv,
                    scores: &scratch.scores,
                    score_rows: &stride,
                };
                ops.exact_block_score
                    .push(gpu.op(&kernels::exact_block_score(shape), blocks).await?);
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
            let [by_softmax, by_score] = [BlockScorer::Codes, BlockScorer::MinMax]
                .map(|scorer| kernels::top_k_blocks(gpu.tier, shape, scorer, Some(slots)));
            ops.top_k_resident = Some([
                gpu.op(&by_softmax, resident.clone()).await?,
                gpu.op(&by_score, resident).await?,
            ]);
        }
        Ok(ops)
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
            if let Some(bounds) = cache.bounds.get(index) {
                let build = kernels::BlockBounds {
                    step: &scratch.step,
                    segment,
                    kv,
                    bounds,
                    index_segment: &index_segment,
                };
                ops.0.push(gpu.op(&kernels::block_bounds(shape), build).await?);
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
