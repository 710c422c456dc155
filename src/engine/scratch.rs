//! Buffers that every layer uses in turn, sized once.

use super::memory::ScratchRows;
use crate::Result;
use crate::contract::StepHeader;
use crate::gpu::{Gpu, buffers};
use crate::memory::Row;
use crate::model::ModelConfig;
use std::ops::Deref;

/// Strides, in floats, padded to whole units of weights.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strides {
    pub(super) hidden: u32,
    pub(super) ffn: u32,
    pub(super) attention: u32,
    /// Of one expert.
    pub(super) expert: u32,
    pub(super) router: u32,
}

impl Strides {
    pub(super) fn new(config: &ModelConfig) -> Self {
        let padded = |width: u32| width.next_multiple_of(32);
        let experts = config.experts.as_ref();
        Self {
            hidden: padded(config.hidden),
            ffn: padded(config.ffn),
            attention: padded(config.attended()),
            expert: experts.map_or(0, |experts| padded(experts.ffn)),
            router: experts.map_or(0, |experts| padded(experts.count)),
        }
    }
}

buffers! {
    /// What every engine has.
    pub(super) struct CommonScratch {
        step,
        /// The residual stream.
        x,
        normed,
        /// Queries and what is cached, as decode attention and the index read them.
        rows,
        attended,
        ffn,
        /// Inputs of one product as f16, where products are of those.
        halves,
        states,
        partial_o,
        partial_ml,
        logits,
        /// Of each part of a row of logits the best.
        winner_parts,
        winners,
        scores,
        keys,
        head_terms,
        chosen_blocks,
        chosen_tokens,
        /// The way station of copies within one buffer: WebGPU refuses to copy a buffer onto itself.
        moving,
        staging,
    }

    /// The further scratch of latent attention.
    pub(super) struct LatentBuffers {
        /// Hidden states projected down: latents and the shared key.
        down,
        q_latents,
        /// Queries of all heads, before absorption.
        queries,
        /// Attended latents of decode rows.
        merged,
        /// A step of a slab's tokens.
        slab_step,
        /// The step with the block tables of slabs: each logical block is where it is.
        slab_tables,
        slab_latents,
        slab_shared,
        slab_made,
        slab_kv,
    }

    /// The further scratch of a mixture of experts.
    pub(super) struct ExpertScratch {
        logits,
        slots,
        lists,
        /// The output of each entry's expert.
        made,
    }
}

pub(super) struct Scratch {
    common: CommonScratch,
    pub(super) latent: Option<LatentScratch>,
    pub(super) experts: Option<ExpertScratch>,
}

pub(super) struct LatentScratch {
    own: LatentBuffers,
    /// Tokens of a slab, of which prefill makes keys and values at a time.
    pub(super) slab_tokens: u32,
}

impl Deref for Scratch {
    type Target = CommonScratch;

    fn deref(&self) -> &CommonScratch {
        &self.common
    }
}

impl Deref for LatentScratch {
    type Target = LatentBuffers;

    fn deref(&self) -> &LatentBuffers {
        &self.own
    }
}

impl Scratch {
    pub(super) async fn new(gpu: &Gpu, rows: &ScratchRows) -> Result<Self> {
        Ok(Self {
            common: rows.common.allocate(gpu).await?,
            latent: match &rows.latent {
                None => None,
                Some((rows, slab_tokens)) => {
                    Some(LatentScratch::new(gpu, rows, *slab_tokens).await?)
                }
            },
            experts: match &rows.experts {
                None => None,
                Some(rows) => Some(rows.allocate(gpu).await?),
            },
        })
    }

    /// The output that the states of decode attention are merged into.
    pub(super) fn merged(&self) -> &wgpu::Buffer {
        self.latent.as_ref().map_or(&self.attended, |latent| &latent.merged)
    }
}

impl LatentScratch {
    async fn new(gpu: &Gpu, rows: &LatentBuffers<Row>, slab_tokens: u32) -> Result<Self> {
        let own = rows.allocate(gpu).await?;
        let header = StepHeader { rows: slab_tokens, ..StepHeader::default() };
        gpu.write(&own.slab_step, 0, bytemuck::bytes_of(&header));
        Ok(Self { own, slab_tokens })
    }
}
