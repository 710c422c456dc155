//! Products with weight matrices.

use super::ffn::GateUp;
use super::{OpMaker, Vectors};
use crate::Result;
use crate::engine::scratch::Strides;
use crate::engine::weights::{Matrix, Part};
use crate::formats::WeightFormat;
use crate::gpu::{Binding, Op, Tier};
use crate::kernels::{self, Batch, Input, MATVEC_TOKENS, MatrixParams, Normed, Output, Tokens};

/// What a product multiplies on each path. A matvec norms its inputs itself where lanes are real.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'b> {
    pub(super) matvec: Vectors<'b>,
    pub(super) matmul: Vectors<'b>,
    /// How a matvec's inputs are normed, and the norm's weights.
    pub(super) norm: Option<(Input, &'b wgpu::Buffer)>,
    /// Whether their norm has made f16 of a matmul's, for the products that come next.
    pub(super) halved: bool,
}

impl<'b> From<Vectors<'b>> for Inputs<'b> {
    fn from(x: Vectors<'b>) -> Self {
        Self { matvec: x, matmul: x, norm: None, halved: false }
    }
}

/// An RMSNorm whose results products multiply.
pub(in crate::engine) struct Norm {
    pub(super) op: Op,
    /// The most tokens that do without it, since a matvec norms its inputs itself.
    pub(super) fused: u32,
}

impl Norm {
    /// Records the norm of `tokens` rows for the products that need it.
    pub(in crate::engine) fn record(&self, pass: &mut wgpu::ComputePass<'_>, tokens: u32) {
        if tokens > self.fused {
            self.op.record(pass, tokens, 1, 1);
        }
    }
}

/// A matrix product, part by part: each with both paths.
pub(in crate::engine) struct Product {
    parts: Vec<ProductPart>,
    /// Makes f16 of many tokens' inputs, where a part multiplies those and their norm has not made them.
    halves: Option<Op>,
}

struct ProductPart {
    matvec: Matvec,
    matmul: Matmul,
    /// The most tokens of the matvec path.
    few: u32,
}

/// One part of a product on the matmul path: many tokens.
pub(super) struct Matmul {
    tier: &'static Tier,
    format: WeightFormat,
    rows: u32,
    op: Op,
    /// Where tokens fill a part of a tile of `op`: by sixteens of tokens, ascending.
    narrow: Vec<(u32, Op)>,
}

impl Matmul {
    /// `matrices`: experts, or one.
    pub(super) fn record(&self, pass: &mut wgpu::ComputePass<'_>, tokens: u32, matrices: u32) {
        if let Some((sixteens, op)) = self.narrow.iter().find(|(s, _)| 16 * s >= tokens) {
            let (x, y) = kernels::matmul_narrow_grid(self.rows, *sixteens, tokens);
            return op.record(pass, x, y, matrices);
        }
        let (x, y) = kernels::matmul_grid(self.tier, self.format, self.rows, tokens);
        self.op.record(pass, x, y, matrices);
    }
}

/// A product on the matvec path, of few tokens.
pub(super) struct Matvec {
    /// How many workgroups make the rows.
    workgroups: u32,
    /// By how many tokens a workgroup has, ascending.
    ops: Vec<(u32, Op)>,
}

impl Matvec {
    /// `places`: heads, slots, or one.
    pub(super) fn record(&self, pass: &mut wgpu::ComputePass<'_>, tokens: u32, places: u32) {
        let suits = self.ops.iter().find(|(at_a_time, _)| *at_a_time >= tokens);
        let (at_a_time, op) = suits.or(self.ops.last()).expect("a matvec takes one token");
        op.record(pass, self.workgroups, tokens.div_ceil(*at_a_time), places);
    }
}

impl Product {
    /// Records the product for `tokens` tokens.
    pub(in crate::engine) fn record(&self, pass: &mut wgpu::ComputePass<'_>, tokens: u32) {
        if let Some(halves) = &self.halves
            && tokens > MATVEC_TOKENS
        {
            halves.record(pass, tokens, 1, 1);
        }
        for part in &self.parts {
            if tokens <= part.few {
                part.matvec.record(pass, tokens, 1);
            } else {
                part.matmul.record(pass, tokens, 1);
            }
        }
    }

    /// Records the product for `tokens` inputs, whatever the step's number of rows.
    pub(in crate::engine) fn record_matvec(&self, pass: &mut wgpu::ComputePass<'_>, tokens: u32) {
        for part in &self.parts {
            part.matvec.record(pass, tokens, 1);
        }
    }
}

/// A product of each head's own matrix, on the matvec path.
pub(in crate::engine) struct HeadProduct {
    /// Heads of the part.
    parts: Vec<(u32, Matvec)>,
}

impl HeadProduct {
    pub(in crate::engine) fn record(&self, pass: &mut wgpu::ComputePass<'_>, tokens: u32) {
        for (heads, matvec) in &self.parts {
            matvec.record(pass, tokens, *heads);
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
        batches: 1,
        ..MatrixParams::default()
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
        ..MatrixParams::default()
    }
}

impl<'a> OpMaker<'a> {
    // RMSNorm of rows of `width` floats, and what products of the results multiply, which have to be those that come next.
    pub(super) async fn normed<'b>(
        &mut self,
        (width, epsilon): (u32, f32),
        x: Vectors<'b>,
        weight: &'b wgpu::Buffer,
        y: Vectors<'b>,
    ) -> Result<(Norm, Inputs<'b>)> {
        // A row that a product's units of 32 weights would go beyond has more to become f16 than is normed.
        let halved = kernels::has_matrix_units(self.gpu.tier) && width.is_multiple_of(32);
        let normed = if halved { Normed::Halved } else { Normed::Rows };
        let op = self.norm(normed, (width, epsilon), x, weight, y).await?;
        let fused = if kernels::matvec_norms(self.gpu.tier) { MATVEC_TOKENS } else { 0 };
        let inputs = if fused > 0 {
            let norm = Some((Input::Normed { width, epsilon }, weight));
            Inputs { matvec: x, matmul: y, norm, halved }
        } else {
            Inputs { halved, ..y.into() }
        };
        Ok((Norm { op, fused }, inputs))
    }

    // Where attention's and the feed-forward network's results go: to the stream, or, where they are normed before, to where that norm
    // reads them. What was normed for them has been multiplied by then.
    pub(super) fn result(&self, is_normed: bool) -> (Vectors<'a>, Output) {
        let (scratch, stride) = (self.scratch, Strides::new(self.config).hidden);
        match is_normed {
            false => ((&scratch.x, stride), Output::Add),
            true => ((&scratch.normed, stride), Output::Store),
        }
    }

    // RMSNorm of the residual stream.
    pub(super) async fn stream_norm<'b>(
        &mut self,
        weight: &'b wgpu::Buffer,
    ) -> Result<(Norm, Inputs<'b>)>
    where
        'a: 'b,
    {
        let scratch = self.scratch;
        let stride = Strides::new(self.config).hidden;
        let size = (self.config.hidden, self.config.epsilon);
        self.normed(size, (&scratch.x, stride), weight, (&scratch.normed, stride)).await
    }
}

impl OpMaker<'_> {
    pub(super) async fn product(
        &mut self,
        matrix: &Matrix,
        x: impl Into<Inputs<'_>>,
        y: Vectors<'_>,
        output: Output,
    ) -> Result<Product> {
        let step = self.scratch.step.clone();
        self.product_of(&step, matrix, x.into(), (y.0, y.1, 0), (output, Tokens::Rows)).await
    }

    // A product over the rows of another step than the engine's, written `offset` floats into each row of y.
    pub(super) async fn product_of(
        &mut self,
        step: &wgpu::Buffer,
        matrix: &Matrix,
        x: Inputs<'_>,
        (y, y_stride, offset): (&wgpu::Buffer, u32, u32),
        of: (Output, fn(u32) -> Tokens),
    ) -> Result<Product> {
        let parts = self.product_parts(step, matrix, x, (y, y_stride, offset), of).await?;
        Ok(Product { parts, halves: self.halves(&matrix.parts, x).await? })
    }

    async fn product_parts(
        &mut self,
        step: &wgpu::Buffer,
        matrix: &Matrix,
        x: Inputs<'_>,
        (y, y_stride, offset): (&wgpu::Buffer, u32, u32),
        (output, tokens): (Output, fn(u32) -> Tokens),
    ) -> Result<Vec<ProductPart>> {
        let mut parts = Vec::new();
        for part in &matrix.parts {
            let params = |x_stride| {
                let params = plain(part, x_stride, y_stride);
                MatrixParams { first_row: params.first_row + offset, ..params }
            };
            let (matvec, matmul) = (params(x.matvec.1), params(x.matmul.1));
            let of_many = (output, Batch::One);
            parts.push(ProductPart {
                matvec: self.matvec_of(part, matvec, (output, tokens), step, (x, y)).await?,
                matmul: self.matmul(part, matmul, of_many, step, (x.matmul.0, y), None).await?,
                few: kernels::matvec_tokens(self.gpu.tier, part.format),
            });
        }
        Ok(parts)
    }

    // Gate and up projections of the same inputs.
    pub(super) async fn gated_product(
        &mut self,
        gate_up: &GateUp,
        x: Inputs<'_>,
        (y, y_stride): Vectors<'_>,
    ) -> Result<Product> {
        let step = self.scratch.step.clone();
        let mut parts = Vec::new();
        for (matrix, output) in gate_up {
            let y = (y, y_stride, 0);
            let of = (*output, Tokens::Rows as fn(u32) -> Tokens);
            parts.extend(self.product_parts(&step, matrix, x, y, of).await?);
        }
        let all = gate_up.iter().flat_map(|(matrix, _)| &matrix.parts);
        Ok(Product { parts, halves: self.halves(all, x).await? })
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
            let x = Inputs::from((x, x_stride));
            let matvec = self.matvec(part, params, kind, &step, (x, y), None).await?;
            parts.push((params.batches, matvec));
        }
        Ok(HeadProduct { parts })
    }

    // One part of a product of one matrix with a few tokens: by one token a workgroup, two and so on.
    async fn matvec_of(
        &mut self,
        part: &Part,
        params: MatrixParams,
        (output, tokens): (Output, fn(u32) -> Tokens),
        step: &wgpu::Buffer,
        (x, y): (Inputs<'_>, &wgpu::Buffer),
    ) -> Result<Matvec> {
        let kind = (output, Batch::One);
        let mut matvec = self.matvec(part, params, kind, step, (x, y), None).await?;
        let mut at_a_time = 2;
        while at_a_time <= kernels::tokens_at_a_time(self.gpu.tier) {
            let of = (Batch::One, tokens(at_a_time));
            let op = self.matvec_op(part, params, (output, of), step, (x, y), None).await?;
            matvec.ops.push((at_a_time, op));
            at_a_time *= 2;
        }
        Ok(matvec)
    }

    // One part of a product with a few tokens, one a workgroup; `slots` name each token's experts.
    pub(super) async fn matvec(
        &mut self,
        part: &Part,
        params: MatrixParams,
        (output, batch): (Output, Batch<'_>),
        step: &wgpu::Buffer,
        (x, y): (Inputs<'_>, &wgpu::Buffer),
        slots: Option<&wgpu::Buffer>,
    ) -> Result<Matvec> {
        let of = (output, (batch, Tokens::One));
        let op = self.matvec_op(part, params, of, step, (x, y), slots).await?;
        let (workgroups, _) =
            kernels::matvec_grid(self.gpu.tier, part.format, (params.rows, part.units), 1);
        Ok(Matvec { workgroups, ops: vec![(1, op)] })
    }

    async fn matvec_op(
        &mut self,
        part: &Part,
        params: MatrixParams,
        (output, of): (Output, (Batch<'_>, Tokens)),
        step: &wgpu::Buffer,
        (x, y): (Inputs<'_>, &wgpu::Buffer),
        slots: Option<&wgpu::Buffer>,
    ) -> Result<Op> {
        let tier = self.gpu.tier;
        let size = (params.rows, part.units);
        let input = x.norm.map_or(Input::Plain, |norm| norm.0);
        let spec = kernels::matvec(tier, part.format, size, output, of);
        let matrix = self.uniform(params.of_matvec(tier, part.format, input, output)).await?;
        let norm_weight = x.norm.map_or(x.matvec.0, |norm| norm.1);
        let operands = kernels::Product {
            slots: slots.map(Binding::from),
            norm_weight: kernels::matvec_norms(tier).then_some(norm_weight.into()),
            ..operands(part, &matrix, step, (x.matvec.0, y))
        };
        self.gpu.op(&spec, operands).await
    }

    // One part of a product with many tokens, whose inputs their norm or `halves` made f16 of; `lists` name each expert's tokens.
    pub(super) async fn matmul(
        &mut self,
        part: &Part,
        params: MatrixParams,
        (output, batch): (Output, Batch<'_>),
        step: &wgpu::Buffer,
        (x, y): (&wgpu::Buffer, &wgpu::Buffer),
        lists: Option<&wgpu::Buffer>,
    ) -> Result<Matmul> {
        let (tier, scratch) = (self.gpu.tier, self.scratch);
        let spec = kernels::matmul(tier, part.format, output, batch);
        let mut params = params.of_output(output);
        let mut from = x;
        if kernels::multiplies_halves(tier, part.format) {
            from = &scratch.halves;
            params.weight_shift = self.weight_shift(part).await?;
        }
        let matrix = self.uniform(params).await?;
        let operands = kernels::Product {
            lists: lists.map(Binding::from),
            ..operands(part, &matrix, step, (from, y))
        };
        let mut narrow = Vec::new();
        if let Batch::One = batch {
            for &sixteens in kernels::narrow_sixteens(tier, part.format) {
                let spec = kernels::matmul_narrow(part.format, params.rows, sixteens, output);
                narrow.push((sixteens, self.gpu.op(&spec, operands.clone()).await?));
            }
        }
        let op = self.gpu.op(&spec, operands).await?;
        Ok(Matmul { tier, format: part.format, rows: params.rows, op, narrow })
    }

    // Makes f16 of the inputs of a matrix, if a part of it multiplies those and nothing has made them.
    pub(super) async fn halves<'p>(
        &mut self,
        parts: impl IntoIterator<Item = &'p Part>,
        inputs: Inputs<'_>,
    ) -> Result<Option<Op>> {
        let (tier, (x, x_stride)) = (self.gpu.tier, inputs.matmul);
        let multiplies = |part: &&Part| kernels::multiplies_halves(tier, part.format);
        let Some(part) = parts.into_iter().find(multiplies).filter(|_| !inputs.halved) else {
            return Ok(None);
        };
        let uniform = self.uniform(kernels::half_rows_params(part.units, x_stride)).await?;
        let rows = kernels::HalfRows { rows: &uniform, x, halves: &self.scratch.halves };
        self.gpu.op(&kernels::half_rows(tier), rows).await.map(Some)
    }

    // What a part's weights are shifted by where they become f16.
    async fn weight_shift(&mut self, part: &Part) -> Result<i32> {
        let uniform = self.uniform(kernels::largest_weight_params(part.rows * part.units)).await?;
        // Nothing else uses it before the first step.
        let largest = &self.scratch.winners;
        self.gpu.write(largest, 0, &[0; 4]);
        let weights = kernels::LargestWeight {
            largest: largest.into(),
            sizes: (&uniform).into(),
            weights: part.weights(),
            scales: part.scales(),
        };
        let op = self.gpu.op(&kernels::largest_weight(part.format), weights).await?;
        self.gpu.run(&[(&op, [kernels::LARGEST_WEIGHT_GRID, 1, 1])])?;
        let bits = crate::engine::words(&self.gpu.download(largest, 4).await?)[0];
        Ok(kernels::weight_shift(f32::from_bits(bits)))
    }
}

// What every product with one part of a matrix has.
fn operands<'b>(
    part: &'b Part,
    matrix: &'b wgpu::Buffer,
    step: &'b wgpu::Buffer,
    (x, y): (&'b wgpu::Buffer, &'b wgpu::Buffer),
) -> kernels::Product<Binding<'b>> {
    kernels::Product {
        step: step.into(),
        matrix: matrix.into(),
        weights: part.weights(),
        scales: part.scales(),
        x: x.into(),
        y: y.into(),
        slots: None,
        lists: None,
        norm_weight: None,
    }
}
