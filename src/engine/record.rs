//! Recording a planned step: the kernels of each layer, in order.

use super::Engine;
use super::ops::{AttentionOps, Candidates, IndexOps, LayerOps};
use crate::attention::{Step, TwoLevel};
use crate::gpu::Op;
use crate::kernels;

#[derive(Clone, Copy)]
pub(super) enum Mode<'a> {
    Prefill,
    Decode(Option<&'a TwoLevel>),
}

/// A step and what its layers have in common.
pub(super) struct Plan<'a> {
    pub(super) step: Step,
    pub(super) mode: Mode<'a>,
    /// Segments of the cache that rows are appended to.
    pub(super) segments: Vec<u32>,
    /// Whether a row counts for the choice of index channels.
    pub(super) gathers_stats: bool,
}

impl Engine {
    pub(super) fn record_embedding(&self, pass: &mut wgpu::ComputePass<'_>, step: &Step) {
        let units = self.config.hidden.div_ceil(32);
        for embed in &self.ends.embed {
            embed.record(pass, units.div_ceil(8), step.rows, 1);
        }
    }

    pub(super) fn record_layer(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        layer: &LayerOps,
        plan: &Plan<'_>,
    ) {
        self.record_append(pass, layer, plan);
        match plan.mode {
            Mode::Prefill => match &layer.attention {
                AttentionOps::Grouped(grouped) => {
                    for prefill in &grouped.prefill {
                        prefill.record(pass, self.shape.q_heads(), plan.step.tiles, 1);
                    }
                }
                AttentionOps::Latent(latent) => {
                    latent.record_prefill(pass, plan.step.context, plan.step.tiles);
                }
            },
            Mode::Decode(selection) => {
                if let (Some(two_level), Some(index)) = (selection, &layer.index) {
                    self.record_blocks(pass, index, &plan.step, two_level);
                    self.record_tokens(pass, index, &plan.step, two_level, Candidates::Chosen);
                }
                self.record_attention(pass, layer, plan);
            }
        }
        self.record_rest(pass, layer, plan);
    }

    /// Queries, keys and values of a layer, rotated, and its cache extended.
    pub(super) fn record_append(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        layer: &LayerOps,
        plan: &Plan<'_>,
    ) {
        let rows = plan.step.rows;
        layer.attn_norm.record(pass, rows);
        match &layer.attention {
            AttentionOps::Grouped(grouped) => {
                grouped.qkv.record(pass, rows);
                for &segment in &plan.segments {
                    let heads = self.shape.q_heads() + 2 * self.shape.kv_heads;
                    grouped.rope_append[segment as usize].record(pass, heads, rows, 1);
                }
            }
            AttentionOps::Latent(latent) => {
                let absorbed = matches!(plan.mode, Mode::Decode(_)) || plan.gathers_stats;
                latent.record_append(pass, rows, &plan.segments, absorbed);
            }
        }
    }

    /// Level 1 of a decode step. What keeps everything is not scored.
    pub(super) fn record_blocks(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        index: &IndexOps,
        step: &Step,
        two_level: &TwoLevel,
    ) {
        let (kv_heads, block_scorer) = (self.shape.kv_heads, two_level.block_scorer);
        if step.ranks_blocks {
            index.record_block_scores(pass, block_scorer, step.sealed, kv_heads, step.rows);
        }
        index.top_k_blocks(block_scorer).record(pass, kv_heads, step.rows, 1);
    }

    /// Level 2 of a decode step.
    pub(super) fn record_tokens(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        index: &IndexOps,
        step: &Step,
        two_level: &TwoLevel,
        from: Candidates,
    ) {
        let kv_heads = self.shape.kv_heads;
        if step.ranks_tokens {
            let (scorer, blocks) = (two_level.token_scorer, step.blocks_kept);
            index.record_token_scores(pass, from, scorer, blocks, kv_heads, step.rows);
        }
        index.top_k_tokens(from).record(pass, kv_heads, step.rows, 1);
    }

    /// Attention of a decode step: dense, or over the tokens chosen.
    pub(super) fn record_attention(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        layer: &LayerOps,
        plan: &Plan<'_>,
    ) {
        let split = match (plan.mode, &layer.index) {
            (Mode::Decode(Some(_)), Some(index)) => &index.sparse_split,
            _ => &layer.dense_split,
        };
        self.record_split(pass, split, &plan.step);
        self.record_merge(pass, layer, &layer.merge, &plan.step);
    }

    /// Partial states of a decode step's attention, segment by segment.
    pub(super) fn record_split(&self, pass: &mut wgpu::ComputePass<'_>, split: &[Op], step: &Step) {
        for split in split {
            let quads = self.shape.group.div_ceil(4);
            split.record(pass, step.splits, self.shape.kv_heads * quads, step.rows);
        }
    }

    /// What partial states come to.
    pub(super) fn record_merge(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        layer: &LayerOps,
        merge: &Op,
        step: &Step,
    ) {
        let shape = &self.shape;
        merge.record(pass, shape.q_heads(), step.rows, kernels::merge_parts(shape));
        if let AttentionOps::Latent(latent) = &layer.attention {
            latent.record_values(pass, step.rows);
        }
    }

    /// What follows a layer's attention: its index, the output projection and the feed-forward network.
    pub(super) fn record_rest(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        layer: &LayerOps,
        plan: &Plan<'_>,
    ) {
        if let Some(index) = &layer.index {
            self.record_stats(pass, index, plan);
            self.record_sealing(pass, index, &plan.step);
        }
        self.record_feed_forward(pass, layer, plan);
    }

    /// What index channels are chosen by.
    pub(super) fn record_stats(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        index: &IndexOps,
        plan: &Plan<'_>,
    ) {
        if plan.gathers_stats {
            let (kv_heads, spans) = (self.shape.kv_heads, plan.step.spans);
            index.channel_stats.record(pass, kv_heads, spans, self.shape.group + 1);
        }
    }

    /// The output projection and the feed-forward network.
    pub(super) fn record_feed_forward(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        layer: &LayerOps,
        plan: &Plan<'_>,
    ) {
        let step = &plan.step;
        layer.output.record(pass, step.rows);
        layer.ffn_norm.record(pass, step.rows);
        layer.ffn.record(pass, step.rows);
    }

    /// The index of the blocks that are sealed.
    pub(super) fn record_sealing(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        index: &IndexOps,
        step: &Step,
    ) {
        for sealing in &index.sealing {
            sealing.record(pass, self.shape.kv_heads, step.sealing);
        }
    }

    pub(super) fn record_logits(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        step: &Step,
        wants_token: bool,
    ) {
        self.ends.output_norm.record(pass, step.outputs, 1, 1);
        self.ends.logits.record_matvec(pass, step.outputs);
        if wants_token {
            self.ends.arg_max.record(pass, step.outputs, 1, 1);
        }
    }
}
