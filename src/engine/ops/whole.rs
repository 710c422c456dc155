//! The operations of a layer whose keys and values are all on the GPU.

use super::index::{IndexOps, SealingOps, TokenOps};
use super::latent::SlabOps;
use super::{AttentionWeights, LayerKv, OpMaker};
use crate::Result;
use crate::attention::{Shape, Timing};
use crate::engine::layer::KvOps;
use crate::engine::record::Plan;
use crate::gpu::Op;
use crate::kv::LayerIndex;

/// Vectors hold one a segment of the cache.
pub(in crate::engine) struct WholeOps {
    append: Vec<Op>,
    /// Of an engine with an index.
    sealing: Vec<SealingOps>,
    prefill: WholePrefill,
}

/// Dense attention of prompts.
enum WholePrefill {
    Grouped(Vec<Op>),
    /// What reads a slab: \[segment\]\[slab\].
    Latent(Box<SlabOps>, Vec<Vec<Op>>),
}

impl WholeOps {
    /// What builds the index of blocks.
    pub(in crate::engine) fn index_of_blocks(&self) -> &[SealingOps] {
        &self.sealing
    }
}

impl KvOps for WholeOps {
    fn append(&self, pass: &mut wgpu::ComputePass<'_>, plan: &Plan<'_>, heads: u32) {
        for &segment in &plan.segments {
            self.append[segment as usize].record(pass, heads, plan.step.rows, 1);
        }
    }

    fn sealing(&self, _: &Plan<'_>) -> &[SealingOps] {
        &self.sealing
    }

    fn attend_prompt(&self, pass: &mut wgpu::ComputePass<'_>, plan: &Plan<'_>, shape: &Shape) {
        let step = &plan.step;
        match &self.prefill {
            WholePrefill::Grouped(prefill) => {
                for prefill in prefill {
                    prefill.record(pass, shape.q_heads(), step.prompt_tiles, 1);
                }
            }
            WholePrefill::Latent(slabs, gather) => {
                for slab in 0..step.context.div_ceil(slabs.tokens()) as usize {
                    let gather = gather.iter().map(|of_segment| &of_segment[slab]);
                    slabs.record(pass, slab, gather, step.prompt_tiles);
                }
            }
        }
    }

    fn tokens<'o>(&'o self, index: &'o IndexOps, _: Timing) -> &'o TokenOps {
        &index.tokens
    }
}

impl OpMaker<'_> {
    pub(in crate::engine) async fn whole_ops(
        &mut self,
        weights: &AttentionWeights,
        kv: &LayerKv<'_>,
        index: Option<&LayerIndex>,
    ) -> Result<WholeOps> {
        let step = &self.scratch.step;
        let mut ops = WholeOps {
            append: self.appends(weights, step, kv).await?,
            sealing: Vec::new(),
            prefill: match weights {
                AttentionWeights::Grouped { .. } => WholePrefill::Grouped(Vec::new()),
                AttentionWeights::Latent(latent) => {
                    WholePrefill::Latent(Box::new(self.slab_ops(latent).await?), Vec::new())
                }
            },
        };
        for (segment, buffer) in &self.kv_segments(kv.layout, kv.segments).await? {
            match &mut ops.prefill {
                WholePrefill::Grouped(prefill) => {
                    prefill.push(self.prefill(step, segment, buffer, kv.window).await?);
                }
                WholePrefill::Latent(_, gather) => {
                    gather.push(self.latent_gathers(step, segment, buffer).await?);
                }
            }
            if let Some(index) = index {
                ops.sealing.push(self.sealing(index, buffer, segment).await?);
            }
        }
        Ok(ops)
    }
}
