//! One layer of a model: its operations, made once, and the one order of stages in which every step records them. Steps differ in
//! what they transfer between the stages, and in the stages that have nothing to do.

use super::ops::{
    AttentionOps, Candidates, FfnOps, HostLayerOps, IndexOps, Norm, Product, SealingOps,
};
use super::record::Plan;
use crate::attention::{Shape, Step, Timing, TwoLevel};
use crate::gpu::Op;
use crate::kernels;
use std::ops::RangeBounds;

/// The stages of a layer, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// Queries, keys and values of the step's rows; the cache is extended by them.
    Append,
    /// The index of what was appended: of several tokens of a session the last may select by it already.
    Index,
    /// Level 1: scores blocks and chooses those that this step attends.
    SelectBlocks,
    /// Level 2: scores the tokens of those blocks and chooses.
    SelectTokens,
    /// Attention over what is on the GPU.
    Attend,
    /// What the partial states of attention come to.
    Merge,
    /// Level 1 for the next step, where this one attends what the step before chose.
    SelectNext,
    /// The output projection.
    Project,
    /// The feed-forward network.
    FeedForward,
}

impl Stage {
    const ORDER: [Self; 9] = [
        Self::Append,
        Self::Index,
        Self::SelectBlocks,
        Self::SelectTokens,
        Self::Attend,
        Self::Merge,
        Self::SelectNext,
        Self::Project,
        Self::FeedForward,
    ];
}

/// The operations of one layer; vectors hold one a segment of the cache.
pub(super) struct Layer {
    pub(super) shape: Shape,
    pub(super) attn_norm: Norm,
    pub(super) attention: AttentionOps,
    pub(super) dense_split: Vec<Op>,
    pub(super) merge: Op,
    /// Over a hot cache: also of what arrived.
    pub(super) merge_arrived: Option<Op>,
    pub(super) host: Option<HostLayerOps>,
    pub(super) index: Option<IndexOps>,
    pub(super) output: Product,
    pub(super) ffn_norm: Norm,
    pub(super) ffn: FfnOps,
}

impl Layer {
    /// Records these stages of a step.
    pub(super) fn record(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        plan: &Plan<'_>,
        stages: impl RangeBounds<Stage>,
    ) {
        for stage in Stage::ORDER.into_iter().filter(|stage| stages.contains(stage)) {
            match stage {
                Stage::Append => self.append(pass, plan),
                Stage::Index => self.index(pass, plan),
                Stage::SelectBlocks => self.select_blocks(pass, plan),
                Stage::SelectTokens => self.select_tokens(pass, plan),
                Stage::Attend => self.attend(pass, plan),
                Stage::Merge => self.merge(pass, plan, &self.merge),
                Stage::SelectNext => self.select_next(pass, plan),
                Stage::Project => self.output.record(pass, plan.step.rows),
                Stage::FeedForward => {
                    self.ffn_norm.record(pass, plan.step.rows);
                    self.ffn.record(pass, plan.step.rows);
                }
            }
        }
    }

    fn append(&self, pass: &mut wgpu::ComputePass<'_>, plan: &Plan<'_>) {
        let rows = plan.step.rows;
        self.attn_norm.record(pass, rows);
        let (appends, heads) = match &self.attention {
            AttentionOps::Grouped(grouped) => {
                grouped.qkv.record(pass, rows);
                (&grouped.rope_append, self.shape.q_heads() + 2 * self.shape.kv_heads)
            }
            AttentionOps::Latent(latent) => {
                latent.record_projections(pass, rows);
                (&latent.append, latent.heads + 1)
            }
        };
        match self.chunk(plan) {
            Some(host) => host.chunk_append.record(pass, heads, rows, 1),
            None => {
                for &segment in &plan.segments {
                    appends[segment as usize].record(pass, heads, rows, 1);
                }
            }
        }
        // What absorbed attention and the index need.
        if let AttentionOps::Latent(latent) = &self.attention
            && (plan.step.decoding > 0 || plan.gathers_stats)
        {
            latent.absorb.record(pass, rows);
        }
    }

    fn select_blocks(&self, pass: &mut wgpu::ComputePass<'_>, plan: &Plan<'_>) {
        let Some((index, two_level)) = self.selection(plan) else { return };
        if plan.timing == Timing::Lagged {
            return;
        }
        self.choose_blocks(pass, index, &plan.step, two_level);
        if plan.timing == Timing::Resident
            && let Some(top_k) = index.top_k_resident(two_level.block_scorer)
        {
            top_k.record(pass, self.shape.kv_heads, plan.step.selecting, 1);
        }
    }

    fn select_next(&self, pass: &mut wgpu::ComputePass<'_>, plan: &Plan<'_>) {
        if let (Some((index, two_level)), Timing::Lagged) = (self.selection(plan), plan.timing) {
            self.choose_blocks(pass, index, &plan.step, two_level);
        }
    }

    // What keeps every block is not scored.
    fn choose_blocks(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        index: &IndexOps,
        step: &Step,
        two_level: &TwoLevel,
    ) {
        let (kv_heads, block_scorer) = (self.shape.kv_heads, two_level.block_scorer);
        if step.ranks_blocks {
            index.record_block_scores(pass, block_scorer, step.sealed, kv_heads, step.selecting);
        }
        index.top_k_blocks(block_scorer).record(pass, kv_heads, step.selecting, 1);
    }

    fn select_tokens(&self, pass: &mut wgpu::ComputePass<'_>, plan: &Plan<'_>) {
        let Some((index, two_level)) = self.selection(plan) else { return };
        let from = match plan.timing {
            Timing::Exact => Candidates::Chosen,
            Timing::Lagged | Timing::Resident => Candidates::Listed,
        };
        let (kv_heads, step) = (self.shape.kv_heads, &plan.step);
        if step.ranks_tokens {
            let (scorer, blocks) = (two_level.token_scorer, step.blocks_kept);
            index.record_token_scores(pass, from, scorer, blocks, kv_heads, step.selecting);
        }
        index.top_k_tokens(from).record(pass, kv_heads, step.selecting, 1);
    }

    fn attend(&self, pass: &mut wgpu::ComputePass<'_>, plan: &Plan<'_>) {
        let step = &plan.step;
        if let Some((index, _)) = self.selection(plan) {
            self.split(pass, &index.sparse_split, step, step.selecting);
        }
        if step.decoding > step.selecting {
            self.split(pass, &self.dense_split, step, step.decoding - step.selecting);
        }
        if step.prompt_tiles == 0 {
            return;
        }
        match &self.attention {
            AttentionOps::Grouped(grouped) => match self.chunk(plan) {
                Some(host) => self.prefill(pass, host.over.prefill_chunk.as_slice(), step),
                None => self.prefill(pass, &grouped.prefill, step),
            },
            AttentionOps::Latent(latent) => {
                // Slabs of a context that does not all lie on the GPU come one by one.
                if !plan.is_chunk {
                    latent.record_prefill(pass, step.context, step.prompt_tiles);
                }
            }
        }
    }

    /// Records dense attention of a prompt's chunk over a piece of what came before, once that has arrived.
    pub(super) fn attend_piece(&self, pass: &mut wgpu::ComputePass<'_>, plan: &Plan<'_>) {
        if let Some(host) = self.chunk(plan) {
            self.prefill(pass, host.over.prefill_arrived.as_slice(), &plan.step);
        }
    }

    /// Records latent attention of a prompt's chunk over a slab, of which a part arrived, or a part lies in the chunk.
    pub(super) fn attend_slab(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        plan: &Plan<'_>,
        slab: usize,
        (arrived, of_chunk): (bool, bool),
    ) {
        if let (Some(host), AttentionOps::Latent(latent)) = (self.chunk(plan), &self.attention) {
            let arrived = arrived.then(|| &host.over.gather_arrived[slab]);
            let of_chunk = of_chunk.then(|| &host.over.gather_chunk[slab]);
            let gather = arrived.into_iter().chain(of_chunk);
            latent.record_slab(pass, slab, gather, plan.step.prompt_tiles);
        }
    }

    /// Records, in the place of [`Stage::Merge`], attention over what arrived after [`Stage::Attend`], and what both come to.
    pub(super) fn merge_arrived(&self, pass: &mut wgpu::ComputePass<'_>, plan: &Plan<'_>) {
        if let (Some(index), Some(merge)) = (&self.index, &self.merge_arrived) {
            self.split(pass, &index.arrived_split, &plan.step, plan.step.selecting);
            self.merge(pass, plan, merge);
        }
    }

    fn merge(&self, pass: &mut wgpu::ComputePass<'_>, plan: &Plan<'_>, merge: &Op) {
        let (shape, rows) = (&self.shape, plan.step.decoding);
        // Prefill merges what it finds.
        if rows == 0 {
            return;
        }
        merge.record(pass, shape.q_heads(), rows, kernels::merge_parts(shape));
        if let AttentionOps::Latent(latent) = &self.attention {
            latent.record_values(pass, rows);
        }
    }

    fn index(&self, pass: &mut wgpu::ComputePass<'_>, plan: &Plan<'_>) {
        let Some(index) = &self.index else { return };
        let (kv_heads, step) = (self.shape.kv_heads, &plan.step);
        if plan.gathers_stats {
            index.channel_stats.record(pass, kv_heads, step.spans, self.shape.group + 1);
        }
        match self.chunk(plan) {
            Some(host) => self.seal(pass, host.chunk_sealing.as_slice(), step.sealing),
            None => self.seal(pass, &index.sealing, step.sealing),
        }
    }

    /// Records the index of `blocks` blocks that a step names as sealed.
    pub(super) fn seal(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        sealing: &[SealingOps],
        blocks: u32,
    ) {
        for sealing in sealing {
            sealing.record(pass, self.shape.kv_heads, blocks);
        }
    }

    // Partial states of so many rows that decode, segment by segment.
    fn split(&self, pass: &mut wgpu::ComputePass<'_>, split: &[Op], step: &Step, rows: u32) {
        for split in split {
            let quads = self.shape.group.div_ceil(4);
            split.record(pass, step.splits, self.shape.kv_heads * quads, rows);
        }
    }

    fn prefill(&self, pass: &mut wgpu::ComputePass<'_>, prefill: &[Op], step: &Step) {
        for prefill in prefill {
            prefill.record(pass, self.shape.q_heads(), step.prompt_tiles, 1);
        }
    }

    // What rows of a step select with, if any do.
    fn selection<'a>(&'a self, plan: &Plan<'a>) -> Option<(&'a IndexOps, &'a TwoLevel)> {
        Some((self.index.as_ref()?, plan.selection?))
    }

    // Where a chunk of a prompt lies that does not go to the cache itself.
    fn chunk(&self, plan: &Plan<'_>) -> Option<&HostLayerOps> {
        self.host.as_ref().filter(|_| plan.is_chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_recorded_in_the_order_in_which_they_are_declared() {
        assert!(Stage::ORDER.is_sorted());
        assert_eq!(Stage::ORDER.map(|stage| stage as usize), std::array::from_fn(|i| i));
    }
}
