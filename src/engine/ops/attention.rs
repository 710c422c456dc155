//! What makes a layer's queries, keys and values, and what appends and attends them, wherever they go.

use super::latent::{LatentOps, LatentWeights};
use super::product::Inputs;
use super::{LayerKv, OpMaker, Product};
use crate::Result;
use crate::engine::weights::Matrix;
use crate::gpu::{Binding, Op};
use crate::kernels::{self, Output};

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

/// What makes a row's queries, keys and values.
pub(in crate::engine) enum AttentionOps {
    Grouped(Product),
    Latent(Box<LatentOps>),
}

impl OpMaker<'_> {
    pub(super) async fn attention(
        &mut self,
        weights: &AttentionWeights,
        normed: Inputs<'_>,
    ) -> Result<AttentionOps> {
        match weights {
            AttentionWeights::Grouped { qkv, .. } => {
                let rows = (&self.scratch.rows, self.shape.row_width());
                self.product(qkv, normed, rows, Output::Store).await.map(AttentionOps::Grouped)
            }
            AttentionWeights::Latent(weights) => {
                let ops = self.latent(weights, normed).await?;
                Ok(AttentionOps::Latent(Box::new(ops)))
            }
        }
    }

    /// What appends rows to `kv`, one segment of a cache, whose blocks the tables of `step` name.
    pub(super) async fn append(
        &self,
        weights: &AttentionWeights,
        step: &wgpu::Buffer,
        segment: &wgpu::Buffer,
        kv: &Binding<'_>,
    ) -> Result<Op> {
        match weights {
            AttentionWeights::Grouped { heads, .. } => {
                self.rope_append(heads, step, segment, kv).await
            }
            AttentionWeights::Latent(latent) => self.latent_append(latent, step, segment, kv).await,
        }
    }

    async fn rope_append(
        &self,
        heads: &HeadWeights,
        step: &wgpu::Buffer,
        segment: &wgpu::Buffer,
        kv: &Binding<'_>,
    ) -> Result<Op> {
        let norms = heads.norms.as_ref();
        let append = kernels::RopeAppend {
            step: step.into(),
            segment: segment.into(),
            qkv: (&self.scratch.rows).into(),
            kv: kv.clone(),
            q_weight: norms.map(|[q, _]| q.into()),
            k_weight: norms.map(|[_, k]| k.into()),
            bias: heads.biases.as_ref().map(Binding::from),
        };
        let epsilon = norms.map(|_| self.config.epsilon);
        let spec = kernels::rope_append(&self.shape, epsilon, heads.biases.is_some());
        self.gpu.op(&spec, append).await
    }

    /// What appends rows to each segment of a cache.
    pub(super) async fn appends(
        &mut self,
        weights: &AttentionWeights,
        step: &wgpu::Buffer,
        kv: &LayerKv<'_>,
    ) -> Result<Vec<Op>> {
        let mut appends = Vec::new();
        for (segment, buffer) in &self.kv_segments(kv.layout, kv.segments).await? {
            appends.push(self.append(weights, step, segment, buffer).await?);
        }
        Ok(appends)
    }

    /// Dense attention of a prompt's rows over `kv`, one segment of a cache, whose blocks the tables of `step` name; of a sliding
    /// window of it, where there is one.
    pub(super) async fn prefill(
        &self,
        step: &wgpu::Buffer,
        segment: &wgpu::Buffer,
        kv: &Binding<'_>,
        window: Option<u32>,
    ) -> Result<Op> {
        let (scratch, shape) = (self.scratch, &self.shape);
        let prefill = kernels::Prefill {
            step: step.into(),
            segment: segment.into(),
            qkv: (&scratch.rows).into(),
            kv: kv.clone(),
            values_in: None,
            out: (&scratch.attended).into(),
            states: (&scratch.states).into(),
        };
        let mut spec = kernels::prefill(self.gpu.tier, shape, shape.row_width());
        if let Some(window) = window {
            spec = kernels::with_window(spec, window);
        }
        self.gpu.op(&spec, prefill).await
    }
}
