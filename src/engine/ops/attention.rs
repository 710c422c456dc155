//! What makes a layer's queries, keys and values, and dense attention over a prompt.

use super::latent::{LatentOps, LatentWeights};
use super::product::Inputs;
use super::{OpMaker, Product};
use crate::Result;
use crate::engine::weights::Matrix;
use crate::gpu::Op;
use crate::kernels::{self, Output};
use crate::kv::LayerCache;

/// Weights of a layer's attention but for its output matrix.
pub(in crate::engine) enum AttentionWeights {
    Grouped { qkv: Matrix, heads: HeadWeights },
    Latent(LatentWeights),
}

/// What is done to the heads of a row before they turn, in the models that do so.
pub(in crate::engine) struct HeadWeights {
    /// Weights of the norms of a head's query and key.
    pub(in crate::engine) norms: Option<[wgpu::Buffer; 2]>,
    /// Biases of queries, keys and values.
    pub(in crate::engine) biases: Option<wgpu::Buffer>,
}

pub(in crate::engine) enum AttentionOps {
    Grouped(GroupedOps),
    Latent(Box<LatentOps>),
}

/// Grouped-query attention; vectors hold one a segment of the cache.
pub(in crate::engine) struct GroupedOps {
    pub(in crate::engine) qkv: Product,
    pub(in crate::engine) rope_append: Vec<Op>,
    pub(in crate::engine) prefill: Vec<Op>,
}

impl OpMaker<'_> {
    pub(super) async fn attention(
        &mut self,
        weights: &AttentionWeights,
        normed: Inputs<'_>,
        cache: &LayerCache,
    ) -> Result<AttentionOps> {
        match weights {
            AttentionWeights::Grouped { qkv, heads } => {
                let made = self.grouped(qkv, heads, normed, cache).await;
                made.map(AttentionOps::Grouped)
            }
            AttentionWeights::Latent(weights) => {
                let ops = self.latent(weights, normed, cache).await?;
                Ok(AttentionOps::Latent(Box::new(ops)))
            }
        }
    }

    async fn grouped(
        &mut self,
        qkv: &Matrix,
        heads: &HeadWeights,
        normed: Inputs<'_>,
        cache: &LayerCache,
    ) -> Result<GroupedOps> {
        let (scratch, gpu, shape) = (self.scratch, self.gpu, self.shape);
        let rows = (&scratch.rows, shape.row_width());
        let mut ops = GroupedOps {
            qkv: self.product(qkv, normed, rows, Output::Store).await?,
            rope_append: Vec::new(),
            prefill: Vec::new(),
        };
        for (index, kv) in cache.kv.iter().enumerate() {
            let segment = self.uniform(self.layout.segment(index as u32)).await?;
            let step = scratch.append_step();
            ops.rope_append.push(self.rope_append(heads, step, &segment, kv).await?);
            if cache.slots.is_some() {
                continue;
            }
            let prefill = kernels::Prefill {
                step: &scratch.step,
                segment: &segment,
                qkv: rows.0,
                kv,
                out: &scratch.attended,
                states: &scratch.states,
            };
            ops.prefill.push(gpu.op(&kernels::prefill(gpu.tier, &shape, rows.1), prefill).await?);
        }
        Ok(ops)
    }

    // Appends rows to `kv`, one segment of the cache, whose blocks the tables of `step` name.
    pub(super) async fn rope_append(
        &self,
        heads: &HeadWeights,
        step: &wgpu::Buffer,
        segment: &wgpu::Buffer,
        kv: &wgpu::Buffer,
    ) -> Result<Op> {
        let norms = heads.norms.as_ref();
        let append = kernels::RopeAppend {
            step,
            segment,
            qkv: &self.scratch.rows,
            kv,
            q_weight: norms.map(|[q, _]| q),
            k_weight: norms.map(|[_, k]| k),
            bias: heads.biases.as_ref(),
        };
        let epsilon = norms.map(|_| self.config.epsilon);
        let spec = kernels::rope_append(&self.shape, epsilon, heads.biases.is_some());
        self.gpu.op(&spec, append).await
    }
}
