//! The operations of a model: every kernel with its buffers bound, made once when the model is loaded.

use super::EngineOptions;
use super::scratch::{Scratch, Strides, score_stride};
use crate::Result;
use crate::attention::{BlockScorer, Shape, TokenScorer};
use crate::gpu::{Binding, Gpu, Op};
use crate::kernels::{self, EmbedParams, MatrixParams, Output, RmsNormParams, RowsParams};
use crate::kv::{CacheLayout, LayerCache};
use crate::model::llama::LlamaConfig;
use crate::model::weights::Matrix;
use std::collections::HashMap;

/// A matrix product, part by part: for a few tokens, and for many.
pub(super) struct Product {
    parts: Vec<(u32, Op, Op)>,
}

impl Product {
    /// Records the product for `tokens` tokens.
    pub(super) fn record(&self, pass: &mut wgpu::ComputePass<'_>, tokens: u32) {
        // Up to this many tokens, reading the weights once a token costs less than a tile's idle lanes.
        const FEW: u32 = 4;
        if tokens <= FEW {
            return self.record_few(pass, tokens);
        }
        for (rows, _, many) in &self.parts {
            let (x, y) = kernels::matmul_grid(*rows, tokens);
            many.record(pass, x, y, 1);
        }
    }

    /// Records the product for `tokens` inputs, whatever the step's number of rows.
    pub(super) fn record_few(&self, pass: &mut wgpu::ComputePass<'_>, tokens: u32) {
        for (rows, few, _) in &self.parts {
            let (x, y) = kernels::matvec_grid(*rows, tokens);
            few.record(pass, x, y, 1);
        }
    }
}

pub(super) struct LayerOps {
    pub(super) attn_norm: Op,
    pub(super) qkv: Product,
    /// One a segment.
    pub(super) rope_append: Vec<Op>,
    pub(super) prefill: Vec<Op>,
    pub(super) dense_split: Vec<Op>,
    pub(super) merge: Op,
    pub(super) index: Option<IndexOps>,
    pub(super) output: Product,
    pub(super) ffn_norm: Op,
    pub(super) gate_up: Product,
    pub(super) down: Product,
}

/// The operations of two-level attention; vectors hold one a segment.
pub(super) struct IndexOps {
    pub(super) channel_stats: Op,
    pub(super) token_codes: Vec<Op>,
    /// Empty where no bounds are kept.
    pub(super) block_bounds: Vec<Op>,
    /// Blocks that a workgroup scores by their codes.
    scored_blocks: u32,
    code_block_score: Vec<Op>,
    bounds_score: Vec<Op>,
    exact_block_score: Vec<Op>,
    top_k_by_softmax: Op,
    top_k_by_score: Op,
    code_token_score: Vec<Op>,
    exact_token_score: Vec<Op>,
    pub(super) top_k_tokens: Op,
    pub(super) sparse_split: Vec<Op>,
    /// Per-sequence state, by slot.
    pub(super) stats: wgpu::Buffer,
    pub(super) channels: wgpu::Buffer,
}

impl IndexOps {
    /// Records level 1's scores of up to `closed` blocks.
    pub(super) fn record_block_scores(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        scorer: BlockScorer,
        closed: u32,
        kv_heads: u32,
        rows: u32,
    ) {
        let (ops, x) = match scorer {
            BlockScorer::Codes => (&self.code_block_score, closed.div_ceil(self.scored_blocks)),
            BlockScorer::MinMax => (&self.bounds_score, closed.div_ceil(4)),
            BlockScorer::Oracle => (&self.exact_block_score, closed),
            BlockScorer::None => return,
        };
        for op in ops {
            op.record(pass, x, kv_heads, rows);
        }
    }

    /// Level 1's choice from the scores of this scorer.
    pub(super) fn top_k_blocks(&self, scorer: BlockScorer) -> &Op {
        match scorer {
            BlockScorer::MinMax => &self.top_k_by_score,
            BlockScorer::Codes | BlockScorer::None | BlockScorer::Oracle => &self.top_k_by_softmax,
        }
    }

    /// Records level 2's scores of the tokens of up to `blocks` chosen blocks.
    pub(super) fn record_token_scores(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        scorer: TokenScorer,
        blocks: u32,
        kv_heads: u32,
        rows: u32,
    ) {
        let (ops, x) = match scorer {
            TokenScorer::Codes => (&self.code_token_score, blocks.div_ceil(self.scored_blocks)),
            TokenScorer::Oracle => (&self.exact_token_score, blocks),
            TokenScorer::None => return,
        };
        for op in ops {
            op.record(pass, x, kv_heads, rows);
        }
    }
}

/// What stands before and after the layers.
pub(super) struct EndOps {
    /// Rows of the part, and the operation.
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
    pub(super) config: &'a LlamaConfig,
    pub(super) options: &'a EngineOptions,
    pub(super) shape: Shape,
    pub(super) layout: CacheLayout,
    pub(super) scratch: &'a Scratch,
    pub(super) uniforms: HashMap<Vec<u8>, wgpu::Buffer>,
}

impl OpMaker<'_> {
    async fn uniform<T: bytemuck::Pod>(&mut self, value: T) -> Result<wgpu::Buffer> {
        let bytes = bytemuck::bytes_of(&value);
        if let Some(buffer) = self.uniforms.get(bytes) {
            return Ok(buffer.clone());
        }
        // Uniform structures are padded to 16 bytes in WGSL.
        let mut padded = [0u8; 32];
        padded[..bytes.len()].copy_from_slice(bytes);
        let buffer = self.gpu.uniform("parameters", padded).await?;
        self.uniforms.insert(bytes.to_vec(), buffer.clone());
        Ok(buffer)
    }

    async fn product(
        &mut self,
        matrix: &Matrix,
        (x, x_stride): (&wgpu::Buffer, u32),
        (y, y_stride): (&wgpu::Buffer, u32),
        output: Output,
    ) -> Result<Product> {
        let mut parts = Vec::new();
        for part in &matrix.parts {
            let params = MatrixParams {
                units: part.units,
                rows: part.rows,
                first_row: part.first_row,
                x_stride,
                y_stride,
            };
            let uniform = self.uniform(params).await?;
            let bindings = [
                (&self.scratch.step).into(),
                (&uniform).into(),
                part.weights(),
                part.scales(),
                x.into(),
                y.into(),
            ];
            let few = self
                .gpu
                .op(&kernels::matvec(self.gpu.tier, part.format, output), &bindings)
                .await?;
            let many = self
                .gpu
                .op(&kernels::matmul(self.gpu.tier, part.format, output), &bindings)
                .await?;
            parts.push((part.rows, few, many));
        }
        Ok(Product { parts })
    }

    async fn norm(
        &mut self,
        gather: bool,
        x: &wgpu::Buffer,
        weight: &wgpu::Buffer,
        y: &wgpu::Buffer,
    ) -> Result<Op> {
        let stride = Strides::new(self.config).hidden;
        let params =
            RmsNormParams { width: self.config.hidden, stride, epsilon: self.config.epsilon };
        let uniform = self.uniform(params).await?;
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
        Ok(EndOps {
            embed,
            output_norm: self.norm(true, &scratch.x, output_norm, &scratch.normed).await?,
            logits: self
                .product(
                    output,
                    (&scratch.normed, strides.hidden),
                    (&scratch.logits, vocabulary),
                    Output::Store,
                )
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
        let x = (&scratch.x, strides.hidden);
        let normed = (&scratch.normed, strides.hidden);
        let attended = (&scratch.attended, strides.attention);
        let ffn = (&scratch.ffn, strides.ffn);
        let qkv = (&scratch.qkv, shape.row_width());

        let mut ops = LayerOps {
            attn_norm: self.norm(false, x.0, &weights.attn_norm, normed.0).await?,
            qkv: self.product(&weights.qkv, normed, qkv, Output::Store).await?,
            rope_append: Vec::new(),
            prefill: Vec::new(),
            dense_split: Vec::new(),
            merge: {
                let uniform = self.uniform(self.layout.segments).await?;
                let buffers =
                    [&scratch.step, &uniform, &scratch.partial_o, &scratch.partial_ml, attended.0];
                gpu.op(&kernels::merge(&shape), &buffers.map(Binding::from)).await?
            },
            index: None,
            output: self.product(&weights.output, attended, x, Output::Add).await?,
            ffn_norm: self.norm(false, x.0, &weights.ffn_norm, normed.0).await?,
            gate_up: self.product(&weights.gate_up, normed, ffn, Output::SwiGlu).await?,
            down: self.product(&weights.down, ffn, x, Output::Add).await?,
        };
        for (index, kv) in cache.kv.iter().enumerate() {
            let segment = self.uniform(self.layout.segment(index as u32)).await?;
            let append = [&scratch.step, &segment, qkv.0, kv].map(Binding::from);
            ops.rope_append.push(gpu.op(&kernels::rope_append(&shape), &append).await?);
            let prefill = [&scratch.step, &segment, qkv.0, kv, attended.0, &scratch.states]
                .map(Binding::from);
            ops.prefill.push(gpu.op(&kernels::prefill(gpu.tier, &shape), &prefill).await?);
            let split =
                [&scratch.step, &segment, qkv.0, kv, &scratch.partial_o, &scratch.partial_ml]
                    .map(Binding::from);
            ops.dense_split.push(gpu.op(&kernels::dense_split(&shape), &split).await?);
        }
        if let Some(options) = &self.options.index {
            ops.index = Some(self.index(&shape, cache, options.stats_tokens).await?);
        }
        Ok(ops)
    }

    async fn index(
        &mut self,
        shape: &Shape,
        cache: &LayerCache,
        stats_tokens: u32,
    ) -> Result<IndexOps> {
        let (scratch, gpu) = (self.scratch, self.gpu);
        let slots = u64::from(self.options.sessions);
        let stats = gpu.storage("channel statistics", slots * shape.stats_len() * 4).await?;
        let channels = gpu.storage("index channels", slots * shape.channels_len() * 4).await?;
        let stride = score_stride(self.options) as u32;
        let rows = self.uniform(RowsParams { width: stride, stride }).await?;
        let stride = self.uniform(stride).await?;
        let top_k = [&scratch.step, &rows, &scratch.scores, &scratch.keys];
        let top_k_blocks = [&top_k[..], &[&scratch.chosen_blocks]].concat();
        let top_k_tokens = [&top_k[..], &[&scratch.chosen_tokens, &scratch.chosen_blocks]].concat();
        let stats_of = [&scratch.step, &scratch.qkv, &stats];
        let by_softmax = kernels::top_k_blocks(gpu.tier, shape, BlockScorer::Codes);
        let by_score = kernels::top_k_blocks(gpu.tier, shape, BlockScorer::MinMax);
        let mut ops = IndexOps {
            channel_stats: gpu
                .op(&kernels::channel_stats(shape, stats_tokens), &bindings(&stats_of))
                .await?,
            token_codes: Vec::new(),
            block_bounds: Vec::new(),
            scored_blocks: kernels::scored_blocks(shape),
            code_block_score: Vec::new(),
            bounds_score: Vec::new(),
            exact_block_score: Vec::new(),
            top_k_by_softmax: gpu.op(&by_softmax, &bindings(&top_k_blocks)).await?,
            top_k_by_score: gpu.op(&by_score, &bindings(&top_k_blocks)).await?,
            code_token_score: Vec::new(),
            exact_token_score: Vec::new(),
            top_k_tokens: gpu
                .op(&kernels::top_k_tokens(gpu.tier, shape), &bindings(&top_k_tokens))
                .await?,
            sparse_split: Vec::new(),
            stats: stats.clone(),
            channels: channels.clone(),
        };
        for (index, (kv, codes)) in cache.kv.iter().zip(&cache.codes).enumerate() {
            let segment = self.uniform(self.layout.segment(index as u32)).await?;
            let build = [&scratch.step, &segment, kv, &channels, codes];
            ops.token_codes.push(gpu.op(&kernels::token_codes(shape), &bindings(&build)).await?);
            let by_codes = [&scratch.step, &segment, &scratch.qkv, &channels, codes];
            let exact = [&scratch.step, &segment, &scratch.qkv, kv];
            let blocks = [&scratch.scores, &stride];
            let tokens = [&scratch.chosen_blocks, &scratch.scores, &stride];
            for (ops, spec, from, to) in [
                (
                    &mut ops.code_block_score,
                    kernels::block_score(shape),
                    &by_codes[..],
                    &blocks[..],
                ),
                (&mut ops.code_token_score, kernels::token_score(shape), &by_codes, &tokens),
                (&mut ops.exact_block_score, kernels::exact_block_score(shape), &exact, &blocks),
                (&mut ops.exact_token_score, kernels::exact_token_score(shape), &exact, &tokens),
            ] {
                ops.push(gpu.op(&spec, &bindings(&[from, to].concat())).await?);
            }
            if let Some(bounds) = cache.bounds.get(index) {
                let build = [&scratch.step, &segment, kv, bounds];
                ops.block_bounds
                    .push(gpu.op(&kernels::block_bounds(shape), &bindings(&build)).await?);
                let score =
                    [&scratch.step, &segment, &scratch.qkv, bounds, &scratch.scores, &stride];
                ops.bounds_score
                    .push(gpu.op(&kernels::bounds_score(shape), &bindings(&score)).await?);
            }
            let split = [
                &scratch.step,
                &segment,
                &scratch.qkv,
                kv,
                &scratch.partial_o,
                &scratch.partial_ml,
                &scratch.chosen_tokens,
            ];
            ops.sparse_split.push(gpu.op(&kernels::sparse_split(shape), &bindings(&split)).await?);
        }
        Ok(ops)
    }

    /// The operation that freezes the index channels of a slot.
    pub(super) async fn choose_channels(&mut self, index: &IndexOps, slot: u32) -> Result<Op> {
        let uniform = self.uniform(slot).await?;
        let buffers = [&self.scratch.step, &uniform, &index.stats, &index.channels];
        self.gpu.op(&kernels::choose_channels(&self.shape), &buffers.map(Binding::from)).await
    }
}

pub(super) struct LayerWeights {
    pub(super) attn_norm: wgpu::Buffer,
    pub(super) qkv: Matrix,
    pub(super) output: Matrix,
    pub(super) ffn_norm: wgpu::Buffer,
    pub(super) gate_up: Matrix,
    pub(super) down: Matrix,
}
