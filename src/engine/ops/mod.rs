//! The operations of a model: every kernel with its buffers bound, made once when the model is loaded.

mod attention;
mod ffn;
mod index;
mod latent;
mod product;

pub(super) use attention::{AttentionOps, AttentionWeights};
pub(super) use ffn::{FfnOps, FfnWeights};
pub(super) use index::IndexOps;
pub(super) use latent::LatentWeights;
pub(super) use product::{Norm, Product};

use super::EngineOptions;
use super::scratch::{Scratch, Strides};
use crate::Result;
use crate::attention::Shape;
use crate::gpu::{Binding, Gpu, Op};
use crate::kernels::{self, EmbedParams, Output, RmsNormParams, RowsParams};
use crate::kv::{CacheLayout, LayerCache};
use crate::model::ModelConfig;
use crate::model::weights::Matrix;
use std::collections::HashMap;

/// The weights of one layer.
pub(super) struct LayerWeights {
    pub(super) attn_norm: wgpu::Buffer,
    pub(super) attention: AttentionWeights,
    pub(super) output: Matrix,
    pub(super) ffn_norm: wgpu::Buffer,
    pub(super) ffn: FfnWeights,
}

/// The operations of one layer; vectors hold one a segment of the cache.
pub(super) struct LayerOps {
    pub(super) attn_norm: Norm,
    pub(super) attention: AttentionOps,
    pub(super) dense_split: Vec<Op>,
    pub(super) merge: Op,
    pub(super) index: Option<IndexOps>,
    pub(super) output: Product,
    pub(super) ffn_norm: Norm,
    pub(super) ffn: FfnOps,
}

/// What stands before and after the layers.
pub(super) struct EndOps {
    pub(super) embed: Vec<Op>,
    pub(super) output_norm: Op,
    pub(super) logits: Product,
    pub(super) arg_max: Op,
}

fn bindings<'b>(buffers: &[&'b wgpu::Buffer]) -> Vec<Binding<'b>> {
    buffers.iter().map(|b| Binding::from(*b)).collect()
}

/// Makes operations, sharing equal uniforms.
pub(super) struct OpMaker<'a> {
    pub(super) gpu: &'a Gpu,
    pub(super) config: &'a ModelConfig,
    pub(super) options: &'a EngineOptions,
    pub(super) shape: Shape,
    pub(super) layout: CacheLayout,
    pub(super) scratch: &'a Scratch,
    pub(super) uniforms: HashMap<Vec<u8>, wgpu::Buffer>,
}

/// Rows of floats in a buffer, and how far apart they are.
type Vectors<'b> = (&'b wgpu::Buffer, u32);

impl OpMaker<'_> {
    async fn uniform<T: bytemuck::Pod>(&mut self, value: T) -> Result<wgpu::Buffer> {
        let bytes = bytemuck::bytes_of(&value);
        if let Some(buffer) = self.uniforms.get(bytes) {
            return Ok(buffer.clone());
        }
        // Uniform structures are padded to 16 bytes in WGSL.
        let mut padded = [0u8; 48];
        padded[..bytes.len()].copy_from_slice(bytes);
        let buffer = self.gpu.uniform("parameters", padded).await?;
        self.uniforms.insert(bytes.to_vec(), buffer.clone());
        Ok(buffer)
    }

    // RMSNorm of rows of `width` floats; with `gather`, of the rows whose logits are wanted.
    async fn norm(
        &mut self,
        gather: bool,
        (width, epsilon): (u32, f32),
        (x, x_stride): Vectors<'_>,
        weight: &wgpu::Buffer,
        (y, y_stride): Vectors<'_>,
    ) -> Result<Op> {
        let uniform = self.uniform(RmsNormParams { width, x_stride, y_stride, epsilon }).await?;
        let bindings = [&self.scratch.step, &uniform, x, weight, y].map(Binding::from);
        self.gpu.op(&kernels::rms_norm(self.gpu.tier, gather), &bindings).await
    }

    pub(super) async fn ends(
        &mut self,
        embedding: &Matrix,
        output_norm: &wgpu::Buffer,
        output: &Matrix,
    ) -> Result<EndOps> {
        let scratch = self.scratch;
        let strides = Strides::new(self.config);
        let mut embed = Vec::new();
        for part in &embedding.parts {
            let params =
                EmbedParams { units: part.units, rows: part.rows, first_row: part.first_row };
            let uniform = self.uniform(params).await?;
            let bindings = [
                (&scratch.step).into(),
                (&uniform).into(),
                part.weights(),
                part.scales(),
                (&scratch.x).into(),
            ];
            embed.push(self.gpu.op(&kernels::embed(part.format), &bindings).await?);
        }
        let vocabulary = self.config.vocabulary;
        let uniform = self.uniform(RowsParams { width: vocabulary, stride: vocabulary }).await?;
        let bindings =
            [&scratch.step, &uniform, &scratch.logits, &scratch.winners].map(Binding::from);
        let size = (self.config.hidden, self.config.epsilon);
        let stream = (&scratch.x, strides.hidden);
        let normed = (&scratch.normed, strides.hidden);
        Ok(EndOps {
            embed,
            output_norm: self.norm(true, size, stream, output_norm, normed).await?,
            logits: self
                .product(output, normed, (&scratch.logits, vocabulary), Output::Store)
                .await?,
            arg_max: self.gpu.op(&kernels::arg_max(), &bindings).await?,
        })
    }

    pub(super) async fn layer(
        &mut self,
        weights: &LayerWeights,
        cache: &LayerCache,
    ) -> Result<LayerOps> {
        let (scratch, gpu) = (self.scratch, self.gpu);
        let shape = self.shape;
        let strides = Strides::new(self.config);
        let (attn_norm, normed) = self.stream_norm(&weights.attn_norm).await?;
        let attention = self.attention(&weights.attention, normed, cache).await?;
        let (ffn_norm, normed) = self.stream_norm(&weights.ffn_norm).await?;
        let ffn = self.ffn(&weights.ffn, normed).await?;
        let mut ops = LayerOps {
            attn_norm,
            attention,
            dense_split: Vec::new(),
            merge: {
                let uniform = self.uniform(self.layout.segments).await?;
                let buffers = [
                    &scratch.step,
                    &uniform,
                    &scratch.partial_o,
                    &scratch.partial_ml,
                    scratch.merged(),
                ];
                gpu.op(&kernels::merge(gpu.tier, &shape), &buffers.map(Binding::from)).await?
            },
            index: None,
            output: self
                .product(
                    &weights.output,
                    (&scratch.attended, strides.attention),
                    (&scratch.x, strides.hidden),
                    Output::Add,
                )
                .await?,
            ffn_norm,
            ffn,
        };
        for (index, kv) in cache.kv.iter().enumerate() {
            let segment = self.uniform(self.layout.segment(index as u32)).await?;
            let split = [
                &scratch.step,
                &segment,
                &scratch.rows,
                kv,
                &scratch.partial_o,
                &scratch.partial_ml,
            ]
            .map(Binding::from);
            ops.dense_split.push(gpu.op(&kernels::dense_split(&shape), &split).await?);
        }
        if let Some(options) = &self.options.index {
            ops.index = Some(self.index(&shape, cache, options.stats_tokens).await?);
        }
        Ok(ops)
    }
}
