//! The operations of two-level attention.

use super::{OpMaker, bindings};
use crate::Result;
use crate::attention::{BlockScorer, Shape, TokenScorer};
use crate::engine::scratch::score_stride;
use crate::gpu::{Binding, Op};
use crate::kernels::{self, RowsParams};
use crate::kv::LayerCache;

/// The operations of two-level attention; vectors hold one a segment.
pub(in crate::engine) struct IndexOps {
    pub(in crate::engine) channel_stats: Op,
    pub(in crate::engine) token_codes: Vec<Op>,
    /// Empty where no bounds are kept.
    pub(in crate::engine) block_bounds: Vec<Op>,
    /// Blocks that a workgroup scores by their codes.
    scored_blocks: u32,
    code_block_score: Vec<Op>,
    bounds_score: Vec<Op>,
    exact_block_score: Vec<Op>,
    top_k_by_softmax: Op,
    top_k_by_score: Op,
    code_token_score: Vec<Op>,
    exact_token_score: Vec<Op>,
    pub(in crate::engine) top_k_tokens: Op,
    pub(in crate::engine) sparse_split: Vec<Op>,
    /// Per-sequence state, by slot.
    pub(in crate::engine) stats: wgpu::Buffer,
    pub(in crate::engine) channels: wgpu::Buffer,
}

impl IndexOps {
    /// Records level 1's scores of up to `closed` blocks.
    pub(in crate::engine) fn record_block_scores(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        scorer: BlockScorer,
        closed: u32,
        kv_heads: u32,
        rows: u32,
    ) {
        let (ops, x) = match scorer {
            BlockScorer::Codes => (&self.code_block_score, closed.div_ceil(self.scored_blocks)),
            BlockScorer::MinMax => (&self.bounds_score, closed.div_ceil(4)),
            BlockScorer::Oracle => (&self.exact_block_score, closed),
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

    /// Records level 2's scores of the tokens of up to `blocks` chosen blocks.
    pub(in crate::engine) fn record_token_scores(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        scorer: TokenScorer,
        blocks: u32,
        kv_heads: u32,
        rows: u32,
    ) {
        let (ops, x) = match scorer {
            TokenScorer::Codes => (&self.code_token_score, blocks.div_ceil(self.scored_blocks)),
            TokenScorer::Oracle => (&self.exact_token_score, blocks),
            TokenScorer::None => return,
        };
        for op in ops {
            op.record(pass, x, kv_heads, rows);
        }
    }
}

impl OpMaker<'_> {
    pub(super) async fn index(
        &mut self,
        shape: &Shape,
        cache: &LayerCache,
        stats_tokens: u32,
    ) -> Result<IndexOps> {
        let (scratch, gpu) = (self.scratch, self.gpu);
        let slots = u64::from(self.options.sessions);
        let stats = gpu.storage("channel statistics", slots * shape.stats_len() * 4).await?;
        let channels = gpu.storage("index channels", slots * shape.channels_len() * 4).await?;
        let stride = score_stride(self.options) as u32;
        let rows = self.uniform(RowsParams { width: stride, stride }).await?;
        let stride = self.uniform(stride).await?;
        let top_k = [&scratch.step, &rows, &scratch.scores, &scratch.keys];
        let top_k_blocks = [&top_k[..], &[&scratch.chosen_blocks]].concat();
        let top_k_tokens = [&top_k[..], &[&scratch.chosen_tokens, &scratch.chosen_blocks]].concat();
        let stats_of = [&scratch.step, &scratch.rows, &stats];
        let by_softmax = kernels::top_k_blocks(gpu.tier, shape, BlockScorer::Codes);
        let by_score = kernels::top_k_blocks(gpu.tier, shape, BlockScorer::MinMax);
        let mut ops = IndexOps {
            channel_stats: gpu
                .op(&kernels::channel_stats(shape, stats_tokens), &bindings(&stats_of))
                .await?,
            token_codes: Vec::new(),
            block_bounds: Vec::new(),
            scored_blocks: kernels::scored_blocks(shape),
            code_block_score: Vec::new(),
            bounds_score: Vec::new(),
            exact_block_score: Vec::new(),
            top_k_by_softmax: gpu.op(&by_softmax, &bindings(&top_k_blocks)).await?,
            top_k_by_score: gpu.op(&by_score, &bindings(&top_k_blocks)).await?,
            code_token_score: Vec::new(),
            exact_token_score: Vec::new(),
            top_k_tokens: gpu
                .op(&kernels::top_k_tokens(gpu.tier, shape), &bindings(&top_k_tokens))
                .await?,
            sparse_split: Vec::new(),
            stats: stats.clone(),
            channels: channels.clone(),
        };
        for (index, (kv, codes)) in cache.kv.iter().zip(&cache.codes).enumerate() {
            let segment = self.uniform(self.layout.segment(index as u32)).await?;
            let build = [&scratch.step, &segment, kv, &channels, codes];
            ops.token_codes.push(gpu.op(&kernels::token_codes(shape), &bindings(&build)).await?);
            let by_codes = [&scratch.step, &segment, &scratch.rows, &channels, codes];
            let exact = [&scratch.step, &segment, &scratch.rows, kv];
            let blocks = [&scratch.scores, &stride];
            let tokens = [&scratch.chosen_blocks, &scratch.scores, &stride];
            for (ops, spec, from, to) in [
                (
                    &mut ops.code_block_score,
                    kernels::block_score(shape),
                    &by_codes[..],
                    &blocks[..],
                ),
                (&mut ops.code_token_score, kernels::token_score(shape), &by_codes, &tokens),
                (&mut ops.exact_block_score, kernels::exact_block_score(shape), &exact, &blocks),
                (&mut ops.exact_token_score, kernels::exact_token_score(shape), &exact, &tokens),
            ] {
                ops.push(gpu.op(&spec, &bindings(&[from, to].concat())).await?);
            }
            if let Some(bounds) = cache.bounds.get(index) {
                let build = [&scratch.step, &segment, kv, bounds];
                ops.block_bounds
                    .push(gpu.op(&kernels::block_bounds(shape), &bindings(&build)).await?);
                let score =
                    [&scratch.step, &segment, &scratch.rows, bounds, &scratch.scores, &stride];
                ops.bounds_score
                    .push(gpu.op(&kernels::bounds_score(shape), &bindings(&score)).await?);
            }
            let split = [
                &scratch.step,
                &segment,
                &scratch.rows,
                kv,
                &scratch.partial_o,
                &scratch.partial_ml,
                &scratch.chosen_tokens,
            ];
            ops.sparse_split.push(gpu.op(&kernels::sparse_split(shape), &bindings(&split)).await?);
        }
        Ok(ops)
    }

    /// The operation that freezes the index channels of a slot.
    pub(in crate::engine) async fn choose_channels(
        &mut self,
        index: &IndexOps,
        slot: u32,
    ) -> Result<Op> {
        let uniform = self.uniform(slot).await?;
        let buffers = [&self.scratch.step, &uniform, &index.stats, &index.channels];
        self.gpu.op(&kernels::choose_channels(&self.shape), &buffers.map(Binding::from)).await
    }
}
