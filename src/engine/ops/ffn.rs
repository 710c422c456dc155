//! The feed-forward network of a layer: one for every token, or experts.

use super::product::{Inputs, Matmul, Matvec, Product, batched};
use super::{OpMaker, Vectors};
use crate::Result;
use crate::attention::Experts;
use crate::engine::scratch::Strides;
use crate::engine::weights::{Matrix, Part};
use crate::gpu::Op;
use crate::kernels::{self, Batch, MATVEC_TOKENS, MatrixParams, Output, RowsParams, StrideParams};

/// Weights of a feed-forward network.
pub(in crate::engine) enum FfnWeights {
    Dense { gate_up: GateUp, down: Matrix },
    Experts { router: Matrix, bias: Option<wgpu::Buffer>, gate_up: GateUp, down: Matrix },
}

/// Gate and up projections: one matrix in which their rows alternate, or one after the other.
pub(in crate::engine) type GateUp = Vec<(Matrix, Output)>;

pub(in crate::engine) enum FfnOps {
    Dense { gate_up: Product, down: Product },
    Experts(ExpertOps),
}

/// A mixture of experts. A few tokens are multiplied by their experts' matrices one by one; many are first listed by
/// expert, so that each matrix is read once a tile of tokens.
pub(in crate::engine) struct ExpertOps {
    router: Product,
    route: Op,
    lists: Op,
    gate_up: Vec<ExpertPart>,
    down: Vec<ExpertPart>,
    /// Make f16 of many tokens' inputs, and of their entries', where the experts multiply those and no norm has made them.
    halves_of_tokens: Option<Op>,
    halves_of_entries: Option<Op>,
    sum: Op,
    slots: u32,
    total: u32,
    hidden: u32,
}

/// Experts of one part of a matrix.
struct ExpertPart {
    experts: u32,
    matvec: Matvec,
    matmul: Matmul,
}

impl FfnOps {
    /// Records the network for `rows` tokens.
    pub(in crate::engine) fn record(&self, pass: &mut wgpu::ComputePass<'_>, rows: u32) {
        match self {
            Self::Dense { gate_up, down } => {
                gate_up.record(pass, rows);
                down.record(pass, rows);
            }
            Self::Experts(experts) => experts.record(pass, rows),
        }
    }
}

impl ExpertOps {
    fn record(&self, pass: &mut wgpu::ComputePass<'_>, rows: u32) {
        self.router.record(pass, rows);
        self.route.record(pass, rows, 1, 1);
        if rows <= MATVEC_TOKENS {
            for part in &self.gate_up {
                part.matvec.record(pass, rows, self.slots);
            }
            for part in &self.down {
                part.matvec.record(pass, rows, 1);
            }
            return;
        }
        self.lists.record(pass, self.total, 1, 1);
        // Every token may use the same expert; workgroups beyond an expert's tokens end at once.
        if let Some(halves) = &self.halves_of_tokens {
            halves.record(pass, rows, 1, 1);
        }
        for part in &self.gate_up {
            part.matmul.record(pass, rows, part.experts);
        }
        if let Some(halves) = &self.halves_of_entries {
            halves.record(pass, rows * self.slots, 1, 1);
        }
        for part in &self.down {
            part.matmul.record(pass, rows, part.experts);
        }
        self.sum.record(pass, self.hidden.div_ceil(256), rows, 1);
    }
}

impl OpMaker<'_> {
    /// `result`: what becomes of the network's, which experts add to the stream.
    pub(super) async fn ffn(
        &mut self,
        weights: &FfnWeights,
        normed: Inputs<'_>,
        result: (Vectors<'_>, Output),
    ) -> Result<FfnOps> {
        let scratch = self.scratch;
        let strides = Strides::new(self.config);
        match weights {
            FfnWeights::Dense { gate_up, down } => {
                let ffn = (&scratch.ffn, strides.ffn);
                Ok(FfnOps::Dense {
                    gate_up: self.gated_product(gate_up, normed, ffn).await?,
                    down: self.product(down, ffn, result.0, result.1).await?,
                })
            }
            FfnWeights::Experts { router, bias, gate_up, down } => {
                let config = self.config;
                let experts =
                    config.experts.as_ref().expect("a layer with experts has their shapes");
                self.experts(experts, router, bias.as_ref(), (gate_up, down), normed)
                    .await
                    .map(FfnOps::Experts)
            }
        }
    }

    async fn experts(
        &mut self,
        experts: &Experts,
        router: &Matrix,
        bias: Option<&wgpu::Buffer>,
        (gate_up, down): (&GateUp, &Matrix),
        normed: Inputs<'_>,
    ) -> Result<ExpertOps> {
        let (scratch, gpu) = (self.scratch, self.gpu);
        let moe = scratch.experts.as_ref().expect("a model with experts has their buffers");
        let strides = Strides::new(self.config);
        let (hidden, ffn) = (strides.hidden, strides.expert);
        let slots = experts.slots();
        let router =
            self.product(router, normed, (&moe.logits, strides.router), Output::Store).await?;
        let stride = self.uniform(StrideParams { stride: strides.router }).await?;
        let route = kernels::Route { logits: &moe.logits, slots: &moe.slots, route: &stride, bias };
        let lists =
            kernels::ExpertLists { step: &scratch.step, slots: &moe.slots, lists: &moe.lists };
        let sizes = self.uniform(RowsParams { width: self.config.hidden, stride: hidden }).await?;
        let sum = kernels::ExpertSum {
            expert_sum: &sizes,
            slots: &moe.slots,
            made: &moe.made,
            x: &scratch.x,
        };
        let all = gate_up.iter().flat_map(|(matrix, _)| &matrix.parts);
        let mut ops = ExpertOps {
            router,
            route: gpu.op(&kernels::route(experts), route).await?,
            lists: gpu.op(&kernels::expert_lists(experts), lists).await?,
            gate_up: Vec::new(),
            down: Vec::new(),
            halves_of_tokens: self.halves(all, normed).await?,
            halves_of_entries: self.halves(&down.parts, (&scratch.ffn, ffn).into()).await?,
            sum: gpu.op(&kernels::expert_sum(experts), sum).await?,
            slots,
            total: experts.total(),
            hidden: self.config.hidden,
        };
        for (matrix, output) in gate_up {
            let rows = output.rows() * experts.ffn;
            for part in &matrix.parts {
                let batch = Batch::ExpertsOut(experts);
                let matvec = batched(part, rows, (normed.matvec.1, 0), (slots * ffn, ffn));
                let matmul = batched(part, rows, (normed.matmul.1, 0), (ffn, 0));
                let y = &scratch.ffn;
                ops.gate_up.push(
                    self.expert_part(
                        part,
                        batch,
                        normed,
                        (matvec, y, *output),
                        (matmul, y, *output),
                    )
                    .await?,
                );
            }
        }
        for part in &down.parts {
            let rows = self.config.hidden;
            let batch = Batch::ExpertsIn(experts);
            let matvec = batched(part, rows, (slots * ffn, ffn), (hidden, 0));
            let matmul = batched(part, rows, (ffn, 0), (hidden, 0));
            let from = Inputs::from((&scratch.ffn, ffn));
            ops.down.push(
                self.expert_part(
                    part,
                    batch,
                    from,
                    (matvec, &scratch.x, Output::Add),
                    (matmul, &moe.made, Output::Store),
                )
                .await?,
            );
        }
        Ok(ops)
    }

    async fn expert_part(
        &mut self,
        part: &Part,
        batch: Batch<'_>,
        x: Inputs<'_>,
        matvec: (MatrixParams, &wgpu::Buffer, Output),
        matmul: (MatrixParams, &wgpu::Buffer, Output),
    ) -> Result<ExpertPart> {
        let scratch = self.scratch;
        let moe = scratch.experts.as_ref().expect("a model with experts has their buffers");
        let step = &scratch.step;
        let matvec_op = self
            .matvec(part, matvec.0, (matvec.2, batch), step, (x, matvec.1), Some(&moe.slots))
            .await?;
        let kind = (matmul.2, batch);
        let matmul_op = self
            .matmul(part, matmul.0, kind, step, (x.matmul.0, matmul.1), Some(&moe.lists))
            .await?;
        Ok(ExpertPart { experts: matvec.0.batches, matvec: matvec_op, matmul: matmul_op })
    }
}
