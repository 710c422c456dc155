//! The operations of a model: every kernel with its buffers bound, made once when the model is loaded.

mod attention;
mod ffn;
mod hot;
mod index;
mod latent;
mod product;
mod whole;

pub(super) use attention::{AttentionOps, AttentionWeights, HeadWeights};
pub(super) use ffn::{FfnOps, FfnWeights};
pub(super) use hot::{GatherOps, HotLayer, HotOps, HotParts, HotPrefill, PieceOps};
pub(super) use index::{IndexOps, SealingOps, TokenOps};
pub(super) use latent::{LatentWeights, SlabOps};
pub(super) use product::{Norm, Product};
pub(super) use whole::WholeOps;

use super::layer::Layer;
use super::scratch::{Scratch, Strides};
use super::{EngineOptions, Model};
use crate::Result;
use crate::attention::Shape;
use crate::contract::Words;
use crate::engine::weights::Matrix;
use crate::gpu::{Binding, Gpu, Op, ShaderSpec};
use crate::kernels::{
    self, EmbedParams, HotSlots, MergeParams, Normed, Output, Place, RmsNormParams, RowsParams,
    SegmentParams, Tokens,
};
use crate::kv::{CacheLayout, LayerIndex};
use crate::model::ModelConfig;
use std::collections::HashMap;
use std::sync::Arc;

/// The weights of one layer.
pub(super) struct LayerWeights {
    pub(super) attn_norm: wgpu::Buffer,
    pub(super) attention: AttentionWeights,
    pub(super) output: Matrix,
    pub(super) ffn_norm: wgpu::Buffer,
    /// Of what attention and the feed-forward network make, where it is normed before it is added to the stream.
    pub(super) post_norms: Option<[wgpu::Buffer; 2]>,
    pub(super) ffn: FfnWeights,
}

/// What a layer does that needs its weights and the scratch alone.
pub(super) struct WeightOps {
    pub(super) attn_norm: Norm,
    /// What makes queries, keys and values.
    pub(super) attention: AttentionOps,
    /// The output projection.
    output: Product,
    ffn_norm: Norm,
    ffn: FfnOps,
    /// What adds the results of both to the stream, where they are normed before.
    post_norms: Option<[Op; 2]>,
}

impl WeightOps {
    /// Records the output projection of `rows` rows.
    pub(super) fn record_output(&self, pass: &mut wgpu::ComputePass<'_>, rows: u32) {
        self.output.record(pass, rows);
        if let Some([norm, _]) = &self.post_norms {
            norm.record(pass, rows, 1, 1);
        }
    }

    /// Records the feed-forward network of `rows` rows.
    pub(super) fn record_ffn(&self, pass: &mut wgpu::ComputePass<'_>, rows: u32) {
        self.ffn_norm.record(pass, rows);
        self.ffn.record(pass, rows);
        if let Some([_, norm]) = &self.post_norms {
            norm.record(pass, rows, 1, 1);
        }
    }
}

/// What stands before and after the layers.
pub(super) struct EndOps {
    pub(super) embed: Vec<Op>,
    pub(super) output_norm: Op,
    pub(super) logits: Product,
    pub(super) arg_max_part: Op,
    pub(super) arg_max: Op,
}

/// Makes operations, sharing equal uniforms.
pub(super) struct OpMaker<'a> {
    pub(super) gpu: &'a Gpu,
    pub(super) config: &'a ModelConfig,
    pub(super) options: &'a EngineOptions,
    pub(super) shape: Shape,
    pub(super) scratch: &'a Scratch,
    pub(super) uniforms: HashMap<Vec<u8>, wgpu::Buffer>,
}

/// A layer's keys and values as its kernels see them.
pub(super) struct LayerKv<'a> {
    pub(super) layout: CacheLayout,
    pub(super) segments: &'a [wgpu::Buffer],
    pub(super) blocks: Blocks<'a>,
    /// The most tokens that a token attends, if the layer has a sliding window.
    pub(super) window: Option<u32>,
    /// Where level 1 writes the blocks that it chooses.
    pub(super) chosen: Binding<'a>,
    /// Where level 2 reads them: in a replay, where somebody else lists them.
    pub(super) candidates: Binding<'a>,
}

/// Where blocks are in the segments.
pub(super) enum Blocks<'a> {
    /// Each at its number.
    Paged,
    /// In the slots of a hot cache, which a table names.
    Hot(HotSlots, &'a wgpu::Buffer),
}

impl LayerKv<'_> {
    // The segments, if together they have the keys of every block.
    fn all_keys(&self) -> &[wgpu::Buffer] {
        match self.blocks {
            Blocks::Paged => self.segments,
            Blocks::Hot(..) => &[],
        }
    }

    // Segments that a row's states may come from: over a hot cache what arrives has its own.
    fn state_segments(&self) -> u32 {
        match self.blocks {
            Blocks::Paged => self.layout.segments,
            Blocks::Hot(..) => 2 * self.layout.segments,
        }
    }
}

impl<'a> Blocks<'a> {
    fn place(&self) -> Place {
        match self {
            Self::Paged => Place::Paged,
            Self::Hot(slots, _) => Place::Hot(*slots),
        }
    }

    fn table(&self) -> Option<&'a wgpu::Buffer> {
        match self {
            Self::Paged => None,
            Self::Hot(_, table) => Some(table),
        }
    }
}

/// Rows of floats in a buffer, and how far apart they are.
type Vectors<'b> = (&'b wgpu::Buffer, u32);

impl OpMaker<'_> {
    async fn uniform<T: Words>(&mut self, value: T) -> Result<wgpu::Buffer> {
        let bytes = bytemuck::bytes_of(&value);
        if let Some(buffer) = self.uniforms.get(bytes) {
            return Ok(buffer.clone());
        }
        let buffer = self.gpu.uniform("parameters", value.padded()).await?;
        self.uniforms.insert(bytes.to_vec(), buffer.clone());
        Ok(buffer)
    }

    // RMSNorm of rows of `width` floats.
    async fn norm(
        &mut self,
        normed: Normed,
        (width, epsilon): (u32, f32),
        (x, x_stride): Vectors<'_>,
        weight: &wgpu::Buffer,
        (y, y_stride): Vectors<'_>,
    ) -> Result<Op> {
        let uniform = self.uniform(RmsNormParams { width, x_stride, y_stride, epsilon }).await?;
        let norm = kernels::RmsNorm {
            step: &self.scratch.step,
            rms_norm: &uniform,
            x,
            weight,
            y,
            halves: (normed == Normed::Halved).then_some(&self.scratch.halves),
        };
        self.gpu.op(&kernels::rms_norm(self.gpu.tier, normed), norm).await
    }

    pub(super) async fn ends(&mut self, model: &Model) -> Result<EndOps> {
        let scratch = self.scratch;
        let strides = Strides::new(self.config);
        let mut embed = Vec::new();
        for part in &model.embedding().parts {
            let (units, rows, first_row) = (part.units, part.rows, part.first_row);
            let params =
                EmbedParams { units, rows, first_row, factor: self.config.embedding_factor };
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
        let part = kernels::ArgMaxPart {
            arg_max: &uniform,
            values: &scratch.logits,
            parts: &scratch.winner_parts,
        };
        let arg_max = kernels::ArgMax {
            arg_max: &uniform,
            parts: &scratch.winner_parts,
            winners: &scratch.winners,
        };
        let size = (self.config.hidden, self.config.epsilon);
        let stream = (&scratch.x, strides.hidden);
        let normed = (&scratch.normed, strides.hidden);
        Ok(EndOps {
            embed,
            output_norm: self
                .norm(Normed::Wanted, size, stream, model.output_norm(), normed)
                .await?,
            logits: {
                let to = (&scratch.logits, vocabulary, 0);
                let output = self.config.logit_softcap.map_or(Output::Store, Output::Capped);
                let of = (output, Tokens::Outputs as fn(u32) -> Tokens);
                self.product_of(&scratch.step, model.output(), normed.into(), to, of).await?
            },
            arg_max_part: self.gpu.op(&kernels::arg_max_part(), part).await?,
            arg_max: self.gpu.op(&kernels::arg_max(), arg_max).await?,
        })
    }

    // What adds a result to the stream that is normed before.
    async fn post_norm(&mut self, weight: &wgpu::Buffer) -> Result<Op> {
        let (scratch, stride) = (self.scratch, Strides::new(self.config).hidden);
        let size = (self.config.hidden, self.config.epsilon);
        let (result, stream) = ((&scratch.normed, stride), (&scratch.x, stride));
        self.norm(Normed::Added, size, result, weight, stream).await
    }

    /// What of a layer needs no cache.
    pub(super) async fn weight_ops(&mut self, weights: &LayerWeights) -> Result<WeightOps> {
        let strides = Strides::new(self.config);
        let (attn_norm, normed) = self.stream_norm(&weights.attn_norm).await?;
        let attention = self.attention(&weights.attention, normed).await?;
        let (ffn_norm, normed) = self.stream_norm(&weights.ffn_norm).await?;
        let result = self.result(weights.post_norms.is_some());
        let ffn = self.ffn(&weights.ffn, normed, result).await?;
        let attended = (&self.scratch.attended, strides.attention);
        let output = self.product(&weights.output, attended, result.0, result.1).await?;
        let post_norms = match &weights.post_norms {
            None => None,
            Some([attention, ffn]) => {
                Some([self.post_norm(attention).await?, self.post_norm(ffn).await?])
            }
        };
        Ok(WeightOps { attn_norm, attention, output, ffn_norm, ffn, post_norms })
    }

    /// A layer over a cache, of which `own` is what it does in the way of its residency.
    pub(super) async fn layer<K>(
        &mut self,
        weights: &Arc<WeightOps>,
        kv: &LayerKv<'_>,
        index: Option<&LayerIndex>,
        own: K,
    ) -> Result<Layer<K>> {
        let shape = self.shape;
        let spec = match kv.window {
            None => kernels::dense_split(self.gpu.tier, &shape, kv.blocks.place()),
            Some(window) => kernels::window_split(self.gpu.tier, &shape, window),
        };
        let mut dense_split = Vec::new();
        for segment in 0..kv.segments.len() {
            dense_split.push(self.split(&spec, kv, segment, None, 0).await?);
        }
        Ok(Layer {
            shape,
            weights: weights.clone(),
            selects: kv.window.is_none(),
            dense_split,
            split_workgroups: kernels::split_workgroups(self.gpu.tier, &shape),
            merge: self.merge(kv, kv.layout.segments).await?,
            index: match (index, &self.options.index) {
                (Some(index), Some(options)) => {
                    Some(self.index(kv, index, options.stats_tokens).await?)
                }
                _ => None,
            },
            kv: own,
        })
    }

    // Merges the states of the first `segments` segments.
    async fn merge(&mut self, kv: &LayerKv<'_>, segments: u32) -> Result<Op> {
        let scratch = self.scratch;
        let uniform = self.uniform(MergeParams { segments, count: kv.state_segments() }).await?;
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
        kv: &LayerKv<'_>,
        index: usize,
        chosen_tokens: Option<&wgpu::Buffer>,
        first: u32,
    ) -> Result<Op> {
        let segment = kv.layout.segment(index as u32);
        let (index_of_states, count) = (first + segment.index, kv.state_segments());
        let uniform =
            self.uniform(SegmentParams { index: index_of_states, count, ..segment }).await?;
        let scratch = self.scratch;
        let bytes = u64::from(segment.blocks) * self.shape.block_bytes();
        let split = kernels::Split {
            step: (&scratch.step).into(),
            segment: (&uniform).into(),
            qkv: (&scratch.rows).into(),
            kv: Binding::from(&kv.segments[index]).holding(bytes),
            values_in: None,
            partial_o: (&scratch.partial_o).into(),
            partial_ml: (&scratch.partial_ml).into(),
            chosen_tokens: chosen_tokens.map(Binding::from),
            hot_slots: kv.blocks.table().map(Binding::from),
        };
        self.gpu.op(spec, split).await
    }
}

#[cfg(test)]
mod tests;
