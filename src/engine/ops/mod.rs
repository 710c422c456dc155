//! The operations of a model: every kernel with its buffers bound, made once when the model is loaded.

mod attention;
mod ffn;
mod host;
mod index;
mod latent;
mod product;

pub(super) use attention::{AttentionOps, AttentionWeights, HeadWeights};
pub(super) use ffn::{FfnOps, FfnWeights};
pub(super) use host::{HostLayerOps, HostOps};
pub(super) use index::{Candidates, IndexOps, SealingOps};
pub(super) use latent::LatentWeights;
pub(super) use product::{Norm, Product};

use super::EngineOptions;
use super::layer::Layer;
use super::scratch::{Scratch, Strides};
use crate::Result;
use crate::attention::Shape;
use crate::contract::Words;
use crate::engine::weights::Matrix;
use crate::gpu::{Gpu, Op, ShaderSpec};
use crate::kernels::{
    self, EmbedParams, HotSlots, MergeParams, Output, Place, RmsNormParams, RowsParams,
    SegmentParams,
};
use crate::kv::{CacheLayout, LayerCache};
use crate::model::ModelConfig;
use std::collections::HashMap;

/// The weights of one layer.
pub(super) struct LayerWeights {
    pub(super) attn_norm: wgpu::Buffer,
    pub(super) attention: AttentionWeights,
    pub(super) output: Matrix,
    pub(super) ffn_norm: wgpu::Buffer,
    pub(super) ffn: FfnWeights,
}

/// What stands before and after the layers.
pub(super) struct EndOps {
    pub(super) embed: Vec<Op>,
    pub(super) output_norm: Op,
    pub(super) logits: Product,
    pub(super) arg_max: Op,
}

/// Makes operations, sharing equal uniforms.
pub(super) struct OpMaker<'a> {
    pub(super) gpu: &'a Gpu,
    pub(super) config: &'a ModelConfig,
    pub(super) options: &'a EngineOptions,
    pub(super) shape: Shape,
    pub(super) layout: CacheLayout,
    pub(super) index_layout: CacheLayout,
    /// The hot cache, where the KV cache does not all stay on the GPU.
    pub(super) hot: Option<HotSlots>,
    pub(super) scratch: &'a Scratch,
    pub(super) uniforms: HashMap<Vec<u8>, wgpu::Buffer>,
}

/// Rows of floats in a buffer, and how far apart they are.
type Vectors<'b> = (&'b wgpu::Buffer, u32);

impl OpMaker<'_> {
    async fn uniform<T: Words>(&mut self, value: T) -> Result<wgpu::Buffer> {
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
        let norm = kernels::RmsNorm { step: &self.scratch.step, rms_norm: &uniform, x, weight, y };
        self.gpu.op(&kernels::rms_norm(self.gpu.tier, gather), norm).await
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
            let table = kernels::Embed {
                step: (&scratch.step).into(),
                embed: (&uniform).into(),
                weights: part.weights(),
                scales: part.scales(),
                x: (&scratch.x).into(),
            };
            embed.push(self.gpu.op(&kernels::embed(part.format), table).await?);
        }
        let vocabulary = self.config.vocabulary;
        let uniform = self.uniform(RowsParams { width: vocabulary, stride: vocabulary }).await?;
        let arg_max = kernels::ArgMax {
            step: &scratch.step,
            arg_max: &uniform,
            values: &scratch.logits,
            winners: &scratch.winners,
        };
        let size = (self.config.hidden, self.config.epsilon);
        let stream = (&scratch.x, strides.hidden);
        let normed = (&scratch.normed, strides.hidden);
        Ok(EndOps {
            embed,
            output_norm: self.norm(true, size, stream, output_norm, normed).await?,
            logits: self
                .product(output, normed, (&scratch.logits, vocabulary), Output::Store)
                .await?,
            arg_max: self.gpu.op(&kernels::arg_max(), arg_max).await?,
        })
    }

    pub(super) async fn layer(
        &mut self,
        number: usize,
        weights: &LayerWeights,
        cache: &LayerCache,
        host: Option<&HostOps>,
    ) -> Result<Layer> {
        let (scratch, shape) = (self.scratch, self.shape);
        let strides = Strides::new(self.config);
        let (attn_norm, normed) = self.stream_norm(&weights.attn_norm).await?;
        let attention = self.attention(&weights.attention, normed, cache).await?;
        let (ffn_norm, normed) = self.stream_norm(&weights.ffn_norm).await?;
        let ffn = self.ffn(&weights.ffn, normed).await?;
        let mut ops = Layer {
            shape,
            attn_norm,
            attention,
            dense_split: Vec::new(),
            merge: self.merge(self.layout.segments).await?,
            merge_arrived: match self.hot {
                None => None,
                Some(_) => Some(self.merge(2 * self.layout.segments).await?),
            },
            host: None,
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
        for index in 0..cache.kv.len() {
            let spec = kernels::dense_split(&shape, self.place());
            ops.dense_split.push(self.split(&spec, cache, index, None, 0).await?);
        }
        if let Some(options) = &self.options.index {
            ops.index = Some(self.index(&shape, number, cache, options.stats_tokens).await?);
        }
        if let (Some(slots), Some(host)) = (self.hot, host) {
            let index = ops.index.as_ref();
            ops.host =
                Some(self.host_layer(number, weights, cache, slots, index, &host.over).await?);
        }
        Ok(ops)
    }

    fn place(&self) -> Place {
        self.hot.map_or(Place::Paged, Place::Hot)
    }

    // Segments of the cache that a row's states may come from: over a hot cache what arrives has its own.
    fn state_segments(&self) -> u32 {
        self.layout.segments * if self.hot.is_some() { 2 } else { 1 }
    }

    // Merges the states of the first `segments` segments.
    async fn merge(&mut self, segments: u32) -> Result<Op> {
        let scratch = self.scratch;
        let uniform = self.uniform(MergeParams { segments, count: self.state_segments() }).await?;
        let merge = kernels::Merge {
            step: &scratch.step,
            merge: &uniform,
            partial_o: &scratch.partial_o,
            partial_ml: &scratch.partial_ml,
            out: scratch.merged(),
        };
        self.gpu.op(&kernels::merge(self.gpu.tier, &self.shape), merge).await
    }

    // Decode attention over one segment of the cache, whose states are those of segment `first` and on.
    async fn split(
        &mut self,
        spec: &ShaderSpec,
        cache: &LayerCache,
        index: usize,
        chosen_tokens: Option<&wgpu::Buffer>,
        first: u32,
    ) -> Result<Op> {
        let segment = self.layout.segment(index as u32);
        let (index_of_states, count) = (first + segment.index, self.state_segments());
        let uniform =
            self.uniform(SegmentParams { index: index_of_states, count, ..segment }).await?;
        let scratch = self.scratch;
        let split = kernels::Split {
            step: &scratch.step,
            segment: &uniform,
            qkv: &scratch.rows,
            kv: &cache.kv[index],
            partial_o: &scratch.partial_o,
            partial_ml: &scratch.partial_ml,
            chosen_tokens,
            hot_slots: cache.slots.as_ref(),
        };
        self.gpu.op(spec, split).await
    }
}
