//! Multi-head latent attention (arXiv 2405.04434). Decode is absorbed: queries are taken to the latents' space, where all heads
//! attend one cached row a token, and what they attended is taken to values. Prefill is not: keys and values of all heads
//! are made from the cached latents, a slab of tokens at a time, since then a pair of tokens costs half as much.

use super::OpMaker;
use super::product::{HeadProduct, Inputs, Norm, Product};
use crate::Result;
use crate::attention::Latent;
use crate::engine::scratch::{LatentScratch, Strides};
use crate::engine::weights::Matrix;
use crate::gpu::{Binding, Op};
use crate::kernels::{self, Output, SegmentParams, Tokens};

/// Weights of latent attention but for its output matrix.
pub(in crate::engine) struct LatentWeights {
    pub(in crate::engine) shape: Latent,
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
    pub(in crate::engine) absorb: HeadProduct,
    value: HeadProduct,
    pub(in crate::engine) heads: u32,
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

    /// Records what takes attended latents to values.
    pub(in crate::engine) fn record_values(&self, pass: &mut wgpu::ComputePass<'_>, rows: u32) {
        self.value.record(pass, rows);
    }
}

/// Dense attention of a prompt's rows, slab by slab.
pub(in crate::engine) struct SlabOps {
    make_keys: Product,
    make_values: Product,
    place: Op,
    /// One a slab.
    prefill: Vec<Op>,
    heads: u32,
    slab_tokens: u32,
}

impl SlabOps {
    /// Records dense attention over one slab, which `gather` reads.
    pub(in crate::engine) fn record<'o>(
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
    pub(in crate::engine) fn tokens(&self) -> u32 {
        self.slab_tokens
    }
}

impl OpMaker<'_> {
    pub(super) async fn latent(
        &mut self,
        weights: &LatentWeights,
        normed: Inputs<'_>,
    ) -> Result<LatentOps> {
        let scratch = self.scratch;
        let latent = weights.shape;
        let own = scratch.latent.as_ref().expect("a model with latent attention has its buffers");
        let Latent { heads, q_rank, kv_rank, value, epsilon, .. } = latent;
        let (_, down_stride) = kernels::down_row(&latent);
        let query_dim = latent.query_dim();
        let down = (&own.down, down_stride);
        let q_latents = (&own.q_latents, q_rank.next_multiple_of(32));
        let queries = (&own.queries, heads * query_dim);
        let attended = (&scratch.attended, Strides::new(self.config).attention, value);
        let rows = (&scratch.rows, self.shape.row_width(), self.shape.head_dim);
        let (q_norm, q_normed) =
            self.normed((q_rank, epsilon), down, &weights.q_norm, q_latents).await?;
        let merged = (&own.merged, heads * kv_rank, kv_rank);
        let own_queries = (queries.0, queries.1, query_dim);
        Ok(LatentOps {
            down: self.product(&weights.down, normed, down, Output::Store).await?,
            q_norm,
            q_up: self.product(&weights.q_up, q_normed, queries, Output::Store).await?,
            absorb: self.head_product(&weights.key_absorb, kv_rank, own_queries, rows).await?,
            value: self.head_product(&weights.value_up, value, merged, attended).await?,
            heads,
        })
    }

    pub(super) async fn slab_ops(&mut self, weights: &LatentWeights) -> Result<SlabOps> {
        let (scratch, gpu) = (self.scratch, self.gpu);
        let latent = weights.shape;
        let own = scratch.latent.as_ref().expect("a model with latent attention has its buffers");
        let Latent { heads, kv_rank, nope, value, .. } = latent;
        let stride = heads * (nope + value);
        let (step, slab) = (&own.slab_step, Inputs::from((&own.slab_latents, kv_rank)));
        let keys = (&own.slab_made, stride, 0);
        let values = (&own.slab_made, stride, heads * nope);
        let shape = latent.prefill_shape(self.options.block);
        // Keys and values of a slab, of all heads.
        let blocks = u64::from(own.slab_tokens / self.options.block);
        let slab_kv = Binding::from(&own.slab_kv).holding(blocks * shape.block_bytes());
        let place = kernels::LatentPlace {
            made: (&own.slab_made).into(),
            shared_keys: (&own.slab_shared).into(),
            kv: slab_kv.clone(),
        };
        let of = (Output::Store, Tokens::Rows as fn(u32) -> Tokens);
        let mut ops = SlabOps {
            make_keys: self.product_of(step, &weights.key_up, slab, keys, of).await?,
            make_values: self.product_of(step, &weights.value_up, slab, values, of).await?,
            place: gpu.op(&kernels::latent_place(&shape, &latent), place).await?,
            prefill: Vec::new(),
            heads,
            slab_tokens: own.slab_tokens,
        };
        let prefill = kernels::prefill(gpu.tier, &shape, heads * latent.query_dim());
        for params in self.slabs(own) {
            let slab = self.uniform(params).await?;
            let slab = kernels::Prefill {
                step: (&own.slab_tables).into(),
                segment: (&slab).into(),
                qkv: (&own.queries).into(),
                kv: slab_kv.clone(),
                values_in: None,
                out: (&scratch.attended).into(),
                states: (&scratch.states).into(),
            };
            ops.prefill.push(gpu.op(&prefill, slab).await?);
        }
        Ok(ops)
    }

    // Appends rows to `kv`, one segment of the cache, whose blocks the tables of `step` name.
    pub(super) async fn latent_append(
        &self,
        weights: &LatentWeights,
        step: &wgpu::Buffer,
        segment: &wgpu::Buffer,
        kv: &Binding<'_>,
    ) -> Result<Op> {
        let latent = weights.shape;
        let own = self.scratch.latent.as_ref().expect("latent attention has its buffers");
        let append = kernels::LatentAppend {
            step: step.into(),
            segment: segment.into(),
            queries: (&own.queries).into(),
            down: (&own.down).into(),
            weight: (&weights.kv_norm).into(),
            latents: (&self.scratch.rows).into(),
            kv: kv.clone(),
        };
        self.gpu.op(&kernels::latent_append(&self.shape, &latent), append).await
    }

    /// For each slab of a context, what reads its part of `kv`, one segment of a cache, whose blocks the tables of `step` name.
    pub(super) async fn latent_gathers(
        &mut self,
        step: &wgpu::Buffer,
        segment: &wgpu::Buffer,
        kv: &Binding<'_>,
    ) -> Result<Vec<Op>> {
        let scratch = self.scratch;
        let own = scratch.latent.as_ref().expect("a model with latent attention has its buffers");
        let mut gathers = Vec::new();
        for params in self.slabs(own) {
            let slab = self.uniform(params).await?;
            let gather = kernels::LatentGather {
                step: step.into(),
                segment: segment.into(),
                slab: (&slab).into(),
                kv: kv.clone(),
                latents: (&own.slab_latents).into(),
                shared_keys: (&own.slab_shared).into(),
            };
            gathers.push(self.gpu.op(&kernels::latent_gather(&self.shape), gather).await?);
        }
        Ok(gathers)
    }

    // The slabs of a whole context, as segments that prefill goes through.
    fn slabs(&self, own: &LatentScratch) -> Vec<SegmentParams> {
        let blocks = own.slab_tokens / self.options.block;
        let count = self.options.context.div_ceil(own.slab_tokens);
        (0..count).map(|i| SegmentParams::in_order(i * blocks, blocks, i, count)).collect()
    }
}
