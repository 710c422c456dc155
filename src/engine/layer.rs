//! One layer of a model: its operations, made once, and the one order of stages in which every step records them. Steps differ in
//! what they transfer between the stages, and in the stages that have nothing to do.

use super::ops::{AttentionOps, IndexOps, SealingOps, TokenOps, WeightOps};
use super::record::Plan;
use crate::attention::{BlockScorer, Shape, Step, Timing, TwoLevel};
use crate::gpu::Op;
use crate::kernels;
use std::ops::RangeBounds;
use std::sync::Arc;

/// The stages of a layer, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// Queries, keys and values of the step's rows; the cache is extended by them.
    Append,
    /// The index of what was appended: of several tokens of a session the last may select by it already.
    Index,
    /// Level 1: scores blocks and chooses those that this step attends, or the next one where this attends what the step before chose.
    SelectBlocks,
    /// Level 2: scores the tokens of those blocks and chooses.
    SelectTokens,
    /// Attention over what is on the GPU.
    Attend,
    /// What the partial states of attention come to.
    Merge,
    /// The output projection.
    Project,
    /// The feed-forward network.
    FeedForward,
}

impl Stage {
    const ORDER: [Self; 8] = [
        Self::Append,
        Self::Index,
        Self::SelectBlocks,
        Self::SelectTokens,
        Self::Attend,
        Self::Merge,
        Self::Project,
        Self::FeedForward,
    ];
}

/// What a layer does with keys and values, in the way of where they live.
pub(super) trait KvOps {
    /// Records what appends a step's rows, which have so many heads.
    fn append(&self, pass: &mut wgpu::ComputePass<'_>, plan: &Plan<'_>, heads: u32);

    /// What builds the index of the blocks that a step seals.
    fn sealing(&self, plan: &Plan<'_>) -> &[SealingOps];

    /// Records dense attention of a prompt's rows over what is on the GPU.
    fn attend_prompt(&self, pass: &mut wgpu::ComputePass<'_>, plan: &Plan<'_>, shape: &Shape);

    /// Level 2 over the blocks that a step of this timing attends.
    fn tokens<'o>(&'o self, index: &'o IndexOps, timing: Timing) -> &'o TokenOps;

    /// Records what follows level 1's choice where not all blocks are on the GPU: which of those that are a `resident` step attends
    /// instead, and the weight of what is missed.
    fn compare_choice(
        &self,
        _pass: &mut wgpu::ComputePass<'_>,
        _plan: &Plan<'_>,
        _scorer: BlockScorer,
        _kv_heads: u32,
    ) {
    }
}

/// The operations of one layer over a cache; vectors hold one a segment of it.
pub(super) struct Layer<K> {
    pub(super) shape: Shape,
    pub(super) weights: Arc<WeightOps>,
    /// Whether decode may select what it attends: not where a sliding window says it.
    pub(super) selects: bool,
    /// Of rows that do not select.
    pub(super) dense_split: Vec<Op>,
    /// Workgroups of one split of a row.
    pub(super) split_workgroups: u32,
    pub(super) merge: Op,
    pub(super) index: Option<IndexOps>,
    /// What depends on where keys and values live.
    pub(super) kv: K,
}

impl<K: KvOps> Layer<K> {
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
                Stage::SelectBlocks => self.choose_blocks(pass, plan),
                Stage::SelectTokens => self.select_tokens(pass, plan),
                Stage::Attend => self.attend(pass, plan),
                Stage::Merge => self.merge(pass, plan, &self.merge),
                Stage::Project => self.weights.record_output(pass, plan.step.rows),
                Stage::FeedForward => self.weights.record_ffn(pass, plan.step.rows),
            }
        }
    }

    fn append(&self, pass: &mut wgpu::ComputePass<'_>, plan: &Plan<'_>) {
        let rows = plan.step.rows;
        self.weights.attn_norm.record(pass, rows);
        let heads = match &self.weights.attention {
            AttentionOps::Grouped(qkv) => {
                qkv.record(pass, rows);
                self.shape.q_heads() + 2 * self.shape.kv_heads
            }
            AttentionOps::Latent(latent) => {
                latent.record_projections(pass, rows);
                latent.heads + 1
            }
        };
        self.kv.append(pass, plan, heads);
        // What absorbed attention and the index need.
        if let AttentionOps::Latent(latent) = &self.weights.attention
            && (plan.step.decoding > 0 || plan.gathers_stats)
        {
            latent.absorb.record(pass, rows);
        }
    }

    // What keeps every block is not scored, unless tokens are ranked by what blocks have.
    fn choose_blocks(&self, pass: &mut wgpu::ComputePass<'_>, plan: &Plan<'_>) {
        let Some((index, two_level)) = self.selection(plan) else { return };
        let (kv_heads, block_scorer) = (self.shape.kv_heads, two_level.block_scorer);
        let step = &plan.step;
        let scores_blocks = step.scores_blocks(two_level.divisor());
        if scores_blocks {
            index.record_block_scores(pass, block_scorer, step.sealed, kv_heads, step.selecting);
        }
        let choice = index.block_choice(two_level);
        choice.record(pass, scores_blocks, kv_heads, step.selecting);
        self.kv.compare_choice(pass, plan, block_scorer, kv_heads);
    }

    fn select_tokens(&self, pass: &mut wgpu::ComputePass<'_>, plan: &Plan<'_>) {
        let Some((index, two_level)) = self.selection(plan) else { return };
        let tokens = self.kv.tokens(index, plan.timing);
        let (kv_heads, step) = (self.shape.kv_heads, &plan.step);
        if step.ranks_tokens {
            tokens.record_scores(pass, two_level, step.blocks_kept, kv_heads, step.selecting);
        }
        tokens.record_choice(pass, two_level, step.ranks_tokens, kv_heads, step.selecting);
    }

    fn attend(&self, pass: &mut wgpu::ComputePass<'_>, plan: &Plan<'_>) {
        let step = &plan.step;
        let mut dense = step.decoding;
        if let Some((index, _)) = self.selection(plan) {
            self.split(pass, &index.sparse_split, step, step.selecting);
            dense -= step.selecting;
        }
        if dense > 0 {
            self.split(pass, &self.dense_split, step, dense);
        }
        if step.prompt_tiles > 0 {
            self.kv.attend_prompt(pass, plan, &self.shape);
        }
    }

    /// Records what partial states come to.
    pub(super) fn merge(&self, pass: &mut wgpu::ComputePass<'_>, plan: &Plan<'_>, merge: &Op) {
        let (shape, rows) = (&self.shape, plan.step.decoding);
        // Prefill merges what it finds.
        if rows == 0 {
            return;
        }
        merge.record(pass, shape.q_heads(), rows, kernels::merge_parts(shape));
        if let AttentionOps::Latent(latent) = &self.weights.attention {
            latent.record_values(pass, rows);
        }
    }

    fn index(&self, pass: &mut wgpu::ComputePass<'_>, plan: &Plan<'_>) {
        let Some(index) = &self.index else { return };
        let (kv_heads, step) = (self.shape.kv_heads, &plan.step);
        if plan.gathers_stats {
            index.channel_stats.record(pass, kv_heads, step.spans, self.shape.group + 1);
        }
        self.seal(pass, self.kv.sealing(plan), step.sealing);
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

    /// Records partial states of so many rows that decode, segment by segment.
    pub(super) fn split(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        split: &[Op],
        step: &Step,
        rows: u32,
    ) {
        for split in split {
            split.record(pass, step.splits, self.split_workgroups, rows);
        }
    }

    // What rows of a step select with, if any do.
    fn selection<'a>(&'a self, plan: &Plan<'a>) -> Option<(&'a IndexOps, &'a TwoLevel)> {
        Some((self.index.as_ref().filter(|_| self.selects)?, plan.selection?))
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
