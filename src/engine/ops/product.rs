//! Products with weight matrices.

use super::{OpMaker, Vectors};
use crate::Result;
use crate::gpu::{Binding, Op, ShaderSpec};
use crate::kernels::{self, Batch, MatrixParams, Output};
use crate::model::weights::{Matrix, Part};

/// Up to this many tokens, reading the weights once a token costs less than a tile's idle lanes.
pub(super) const FEW: u32 = 4;

/// A matrix product, part by part: for a few tokens, and for many.
pub(in crate::engine) struct Product {
    parts: Vec<ProductPart>,
}

struct ProductPart {
    rows: u32,
    few: Few,
    many: Op,
}

/// A product with a few tokens: how many workgroups make the rows.
pub(super) struct Few {
    workgroups: u32,
    op: Op,
}

impl Few {
    /// `places`: heads, slots, or one.
    pub(super) fn record(&self, pass: &mut wgpu::ComputePass<'_>, tokens: u32, places: u32) {
        self.op.record(pass, self.workgroups, tokens, places);
    }
}

impl Product {
    /// Records the product for `tokens` tokens.
    pub(in crate::engine) fn record(&self, pass: &mut wgpu::ComputePass<'_>, tokens: u32) {
        if tokens <= FEW {
            return self.record_few(pass, tokens);
        }
        for part in &self.parts {
            let (x, y) = kernels::matmul_grid(part.rows, tokens);
            part.many.record(pass, x, y, 1);
        }
    }

    /// Records the product for `tokens` inputs, whatever the step's number of rows.
    pub(in crate::engine) fn record_few(&self, pass: &mut wgpu::ComputePass<'_>, tokens: u32) {
        for part in &self.parts {
            part.few.record(pass, tokens, 1);
        }
    }
}

/// A product of each head's own matrix, for a few tokens.
pub(in crate::engine) struct HeadProduct {
    /// Heads of the part.
    parts: Vec<(u32, Few)>,
}

impl HeadProduct {
    pub(in crate::engine) fn record(&self, pass: &mut wgpu::ComputePass<'_>, tokens: u32) {
        for (heads, few) in &self.parts {
            few.record(pass, tokens, *heads);
        }
    }
}

/// Parameters of a part that is no batch.
pub(super) fn plain(part: &Part, x_stride: u32, y_stride: u32) -> MatrixParams {
    MatrixParams {
        units: part.units,
        rows: part.rows,
        first_row: part.first_row,
        x_stride,
        y_stride,
        first_batch: 0,
        batches: 1,
        x_batch: 0,
        y_batch: 0,
    }
}

/// Parameters of a part that holds whole matrices of `rows` rows.
pub(super) fn batched(part: &Part, rows: u32, x: (u32, u32), y: (u32, u32)) -> MatrixParams {
    MatrixParams {
        units: part.units,
        rows,
        first_row: 0,
        x_stride: x.0,
        y_stride: y.0,
        first_batch: part.first_row / rows,
        batches: part.rows / rows,
        x_batch: x.1,
        y_batch: y.1,
    }
}

impl OpMaker<'_> {
    pub(super) async fn product(
        &mut self,
        matrix: &Matrix,
        x: Vectors<'_>,
        y: Vectors<'_>,
        output: Output,
    ) -> Result<Product> {
        let step = self.scratch.step.clone();
        self.product_of(&step, matrix, x, (y.0, y.1, 0), output).await
    }

    // A product over the rows of another step than the engine's, written `offset` floats into each row of y.
    pub(super) async fn product_of(
        &mut self,
        step: &wgpu::Buffer,
        matrix: &Matrix,
        (x, x_stride): Vectors<'_>,
        (y, y_stride, offset): (&wgpu::Buffer, u32, u32),
        output: Output,
    ) -> Result<Product> {
        let mut parts = Vec::new();
        for part in &matrix.parts {
            let mut params = plain(part, x_stride, y_stride);
            params.first_row += offset;
            let many = kernels::matmul(self.gpu.tier, part.format, output, Batch::One);
            parts.push(ProductPart {
                rows: part.rows,
                few: self.few(part, params, (output, Batch::One), step, (x, y), None).await?,
                many: self.part(&many, part, params, step, (x, y), None).await?,
            });
        }
        Ok(Product { parts })
    }

    // `rows` rows a head; strides and each head's share of a row.
    pub(super) async fn head_product(
        &mut self,
        matrix: &Matrix,
        rows: u32,
        (x, x_stride, x_head): (&wgpu::Buffer, u32, u32),
        (y, y_stride, y_head): (&wgpu::Buffer, u32, u32),
    ) -> Result<HeadProduct> {
        let step = self.scratch.step.clone();
        let mut parts = Vec::new();
        for part in &matrix.parts {
            let params = batched(part, rows, (x_stride, x_head), (y_stride, y_head));
            let kind = (Output::Store, Batch::Heads);
            let few = self.few(part, params, kind, &step, (x, y), None).await?;
            parts.push((params.batches, few));
        }
        Ok(HeadProduct { parts })
    }

    // One part of a product with a few tokens.
    pub(super) async fn few(
        &mut self,
        part: &Part,
        params: MatrixParams,
        (output, batch): (Output, Batch<'_>),
        step: &wgpu::Buffer,
        buffers: (&wgpu::Buffer, &wgpu::Buffer),
        experts: Option<&wgpu::Buffer>,
    ) -> Result<Few> {
        let tier = self.gpu.tier;
        let spec = kernels::matvec(tier, part.format, part.units, output, batch);
        let (workgroups, _) = kernels::matvec_grid(tier, part.units, params.rows, 1);
        let op = self.part(&spec, part, params, step, buffers, experts).await?;
        Ok(Few { workgroups, op })
    }

    // One part of a product; `experts` is what chooses among its matrices.
    pub(super) async fn part(
        &mut self,
        spec: &ShaderSpec,
        part: &Part,
        params: MatrixParams,
        step: &wgpu::Buffer,
        (x, y): (&wgpu::Buffer, &wgpu::Buffer),
        experts: Option<&wgpu::Buffer>,
    ) -> Result<Op> {
        let uniform = self.uniform(params).await?;
        let mut bindings: Vec<Binding<'_>> =
            vec![step.into(), (&uniform).into(), part.weights(), part.scales(), x.into(), y.into()];
        bindings.extend(experts.map(Binding::from));
        self.gpu.op(spec, &bindings).await
    }
}
