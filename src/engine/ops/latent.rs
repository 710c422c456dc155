//! Multi-head latent attention (arXiv 2405.04434). Decode is absorbed: queries are taken to the latents' space, where all heads
//! attend one cached row a token, and what they attended is taken to values. Prefill is not: keys and values of all heads
//! are made from the cached latents, a slab of tokens at a time, since then a pair of tokens costs half as much.

use super::OpMaker;
use super::product::{HeadProduct, Inputs, Norm, Product};
use crate::Result;
use crate::attention::Latent;
use crate::engine::scratch::{LatentScratch, Strides};
use crate::engine::weights::Matrix;
use crate::gpu::Op;
use crate::kernels::{self, Output, SegmentParams};
use crate::kv::LayerCache;
use crate::model::config::AttentionConfig;

/// Weights of latent attention but for its output matrix.
pub(in crate::engine) struct LatentWeights {
    pub(in crate::engine) down: Matrix,
    pub(in crate::engine) q_norm: wgpu::Buffer,
    pub(in crate::engine) q_up: Matrix,
    pub(in crate::engine) kv_norm: wgpu::Buffer,
    pub(in crate::engine) key_up: Matrix,
    pub(in crate::engine) key_absorb: Matrix,
    pub(in crate::engine) value_up: Matrix,
}

pub(in crate::engine) struct LatentOps {
    down: Product,
    q_norm: Norm,
    q_up: Product,
    /// One a segment of the cache.
    pub(in crate::engine) append: Vec<Op>,
    pub(in crate::engine) absorb: HeadProduct,
    value: HeadProduct,
    /// [slab][segment of the cache]
    gather: Vec<Vec<Op>>,
    make_keys: Product,
    make_values: Product,
    place: Op,
    /// One a slab.
    prefill: Vec<Op>,
    pub(in crate::engine) heads: u32,
    slab_tokens: u32,
}

impl LatentOps {
    /// Records what makes a row's queries and latents, before they are appended.
    pub(in crate::engine) fn record_projections(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        rows: u32,
    ) {
        self.down.record(pass, rows);
        self.q_norm.record(pass, rows);
        self.q_up.record(pass, rows);
    }

    /// Records dense attention of a prompt's rows over a context of so many tokens.
    pub(in crate::engine) fn record_prefill(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        context: u32,
        tiles: u32,
    ) {
        let slabs = context.div_ceil(self.slab_tokens) as usize;
        for slab in 0..slabs {
            self.record_slab(pass, slab, &self.gather[slab], tiles);
        }
    }

    /// Records dense attention over one slab, which `gather` reads.
    pub(in crate::engine) fn record_slab<'o>(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        slab: usize,
        gather: impl IntoIterator<Item = &'o Op>,
        tiles: u32,
    ) {
        for gather in gather {
            gather.record(pass, self.slab_tokens, 1, 1);
        }
        self.make_keys.record(pass, self.slab_tokens);
        self.make_values.record(pass, self.slab_tokens);
        self.place.record(pass, self.heads, self.slab_tokens, 1);
        self.prefill[slab].record(pass, self.heads, tiles, 1);
    }

    /// Tokens of a slab.
    pub(in crate::engine) fn slab_tokens(&self) -> u32 {
        self.slab_tokens
    }

    /// Records what takes attended latents to values.
    pub(in crate::engine) fn record_values(&self, pass: &mut wgpu::ComputePass<'_>, rows: u32) {
        self.value.record(pass, rows);
    }
}

impl OpMaker<'_> {
    pub(super) async fn latent(
        &mut self,
        weights: &LatentWeights,
        normed: Inputs<'_>,
        cache: &LayerCache,
    ) -> Result<LatentOps> {
        let AttentionConfig::Latent(latent) = self.config.attention else {
            unreachable!("latent weights are loaded for latent attention");
        };
        let (scratch, gpu, shape) = (self.scratch, self.gpu, self.shape);
        let own = scratch.latent.as_ref().expect("a model with latent attention has its buffers");
        let Latent { heads, q_rank, kv_rank, nope, value, epsilon, .. } = latent;
        let strides = Strides::new(self.config);
        let (_, down_stride) = kernels::down_row(&latent);
        let q_stride = q_rank.next_multiple_of(32);
        let query_dim = latent.query_dim();
        let mut append = Vec::new();
        for (index, kv) in cache.kv.iter().enumerate() {
            let segment = self.uniform(self.layout.segment(index as u32)).await?;
            append.push(self.latent_append(weights, scratch.append_step(), &segment, kv).await?);
        }
        let down = (&own.down, down_stride);
        let q_latents = (&own.q_latents, q_stride);
        let queries = (&own.queries, heads * query_dim);
        let made_stride = heads * (nope + value);
        let slab = (&own.slab_latents, kv_rank);
        let slabs = self.slabs(own);
        let prefill_shape = latent.prefill_shape(self.options.block);
        let (q_norm, q_normed) =
            self.normed((q_rank, epsilon), down, &weights.q_norm, q_latents).await?;
        let mut ops = LatentOps {
            down: self.product(&weights.down, normed, down, Output::Store).await?,
            q_norm,
            q_up: self.product(&weights.q_up, q_normed, queries, Output::Store).await?,
            append,
            absorb: self
                .head_product(
                    &weights.key_absorb,
                    kv_rank,
                    (queries.0, queries.1, query_dim),
                    (&scratch.rows, shape.row_width(), shape.head_dim),
                )
                .await?,
            value: self
                .head_product(
                    &weights.value_up,
                    value,
                    (&own.merged, heads * kv_rank, kv_rank),
                    (&scratch.attended, strides.attention, value),
                )
                .await?,
            gather: Vec::new(),
            make_keys: self
                .product_of(
                    &own.slab_step,
                    &weights.key_up,
                    slab.into(),
                    (&own.slab_made, made_stride, 0),
                    Output::Store,
                )
                .await?,
            make_values: self
                .product_of(
                    &own.slab_step,
                    &weights.value_up,
                    slab.into(),
                    (&own.slab_made, made_stride, heads * nope),
                    Output::Store,
                )
                .await?,
            place: gpu
                .op(
                    &kernels::latent_place(&prefill_shape, &latent),
                    kernels::LatentPlace {
                        made: &own.slab_made,
                        shared_keys: &own.slab_shared,
                        kv: &own.slab_kv,
                    },
                )
                .await?,
            prefill: Vec::new(),
            heads,
            slab_tokens: own.slab_tokens,
        };
        let prefill = kernels::prefill(gpu.tier, &prefill_shape, queries.1);
        for params in slabs {
            let slab = self.uniform(params).await?;
            let mut gather = Vec::new();
            // Over a hot cache a slab is read from what arrived, or from the chunk.
            let whole = cache.kv.iter().enumerate().filter(|_| cache.slots.is_none());
            for (index, kv) in whole {
                let segment = self.uniform(self.layout.segment(index as u32)).await?;
                gather.push(self.latent_gather(own, &scratch.step, &segment, &slab, kv).await?);
            }
            ops.gather.push(gather);
            let slab = kernels::Prefill {
                step: &own.slab_tables,
                segment: &slab,
                qkv: &own.queries,
                kv: &own.slab_kv,
                out: &scratch.attended,
                states: &scratch.states,
            };
            ops.prefill.push(gpu.op(&prefill, slab).await?);
        }
        Ok(ops)
    }

    // Appends rows to `kv`, one segment of the cache, whose blocks the tables of `step` name.
    pub(super) async fn latent_append(
        &mut self,
        weights: &LatentWeights,
        step: &wgpu::Buffer,
        segment: &wgpu::Buffer,
        kv: &wgpu::Buffer,
    ) -> Result<Op> {
        let AttentionConfig::Latent(latent) = self.config.attention else {
            unreachable!("latent weights are loaded for latent attention");
        };
        let own = self.scratch.latent.as_ref().expect("latent attention has its buffers");
        let append = kernels::LatentAppend {
            step,
            segment,
            queries: &own.queries,
            down: &own.down,
            weight: &weights.kv_norm,
            latents: &self.scratch.rows,
            kv,
        };
        self.gpu.op(&kernels::latent_append(&self.shape, &latent), append).await
    }

    // Reads what one segment of the cache, `kv`, holds of a slab.
    pub(super) async fn latent_gather(
        &self,
        own: &LatentScratch,
        step: &wgpu::Buffer,
        segment: &wgpu::Buffer,
        slab: &wgpu::Buffer,
        kv: &wgpu::Buffer,
    ) -> Result<Op> {
        let gather = kernels::LatentGather {
            step,
            segment,
            slab,
            kv,
            latents: &own.slab_latents,
            shared_keys: &own.slab_shared,
        };
        self.gpu.op(&kernels::latent_gather(&self.shape), gather).await
    }

    // The slabs of a whole context, as segments that prefill goes through.
    pub(super) fn slabs(&self, own: &LatentScratch) -> Vec<SegmentParams> {
        let blocks = own.slab_tokens / self.options.block;
        let count = self.options.context.div_ceil(own.slab_tokens);
        (0..count).map(|i| SegmentParams::in_order(i * blocks, blocks, i, count)).collect()
    }
}
