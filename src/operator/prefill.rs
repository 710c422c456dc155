//! Dense attention of many rows over a caller's buffers: prompts, chunk by chunk.

use super::append::{AppendTensors, BoundAppend};
use super::plan::Kind;
use super::recording::Words;
use super::scratch::{check, segments};
use super::tensors::{self, Access, Given, bind_all};
use super::{Batch, Options, Pass, Plan, PrefillTensors, Recording};
use crate::gpu::{Binding, Gpu, Op, ShaderSpec};
use crate::kernels;
use crate::memory::{Row, prefill_states, sum};
use crate::{Error, Result};
use std::sync::Arc;

/// Causal attention of many rows, over every token: what a prompt needs. One serves every layer of a model.
///
/// A dense plan of a [`Decode`](super::Decode) gives the same numbers but for their rounding, and takes longer the more rows a
/// sequence has.
pub struct Prefill {
    words: Arc<Words>,
    options: Options,
    states: wgpu::Buffer,
    segments: Vec<wgpu::Buffer>,
}

/// Tensors of one layer, bound to a [`Prefill`]'s kernel.
pub struct BoundPrefill {
    words: Arc<Words>,
    /// Segment by segment.
    attend: Vec<Op>,
}

impl Prefill {
    /// Makes the kernel.
    ///
    /// # Errors
    /// As [`Options::validate`]; [`Error::Argument`] for values that are shared with the keys, which a
    /// [`LatentPrefill`](super::LatentPrefill) takes; what the device answers.
    pub async fn new(gpu: &Gpu, options: Options) -> Result<Self> {
        options.validate()?;
        if options.shape.shares_values() {
            let limit = "prefill needs values of their own; latents are prefilled slab by slab";
            return Err(Error::argument("the values", "a part of the keys", limit));
        }
        let rows = rows(&options);
        check(gpu, &rows)?;
        let gpu = gpu.share();
        gpu.pipeline(&spec(&gpu, &options)).await?;
        let [step, states] = &rows;
        let states = gpu.allocate(states).await?;
        let segments = segments(&gpu, &options).await?;
        let step = gpu.allocate(step).await?;
        let words = Words::new(gpu, &options, step, None);
        Ok(Self { words, options, states, segments })
    }

    /// Bytes of device memory that an operator takes for itself, but for some of a few bytes. Pure.
    ///
    /// # Errors
    /// As [`Options::validate`].
    pub fn scratch_bytes(options: &Options) -> Result<u64> {
        options.validate()?;
        Ok(sum(&rows(options)))
    }

    /// What it was made for.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Plans a batch: [`Plan::new`] for this operator's options. Nothing is asked of the device.
    ///
    /// # Errors
    /// As [`Plan::new`]; [`Error::Argument`] for a batch that is not dense.
    pub fn plan(&self, batch: &Batch<'_>) -> Result<Plan> {
        let plan = Plan::new(&self.options, batch)?;
        check_kind(&plan, Kind::Dense)?;
        Ok(plan)
    }

    /// Binds a layer's tensors, which must have room for what [`Limits`](super::Limits) allows.
    ///
    /// # Errors
    /// As [`Decode::bind`](super::Decode::bind).
    pub async fn bind(&self, tensors: &PrefillTensors<'_>) -> Result<BoundPrefill> {
        let (options, gpu) = (&self.options, &self.words.gpu);
        let given = |what: &'static str, range, needed, access| {
            Some(Given { what: what.into(), range, needed, access })
        };
        let cache = (options, &options.shape);
        let cache = tensors::cache(cache, tensors::ATTENDED, &tensors.kv, Access::Read)?;
        let (kv, bound) = bind_all(
            gpu,
            cache,
            [
                given("queries", &tensors.queries, options.query_bytes(), Access::Read),
                given("the output", &tensors.output, options.output_bytes(), Access::Write),
            ],
        )
        .await?;
        let [Some(qkv), Some(out)] = bound else {
            unreachable!("each of them is there");
        };
        let mut attend = Vec::new();
        for (segment, (kv, values_in)) in self.segments.iter().zip(kv.segments()) {
            let prefill = kernels::Prefill {
                step: Binding::from(&self.words.step),
                segment: segment.into(),
                qkv: qkv.clone(),
                kv,
                values_in,
                out: out.clone(),
                states: (&self.states).into(),
            };
            attend.push(gpu.op(&spec(gpu, options), prefill).await?);
        }
        Ok(BoundPrefill { words: self.words.clone(), attend })
    }

    /// Binds new keys and values of a layer, which are to be appended to its cache.
    ///
    /// # Errors
    /// As [`Decode::bind_append`](super::Decode::bind_append).
    pub async fn bind_append(&self, tensors: &AppendTensors<'_>) -> Result<BoundAppend> {
        let cache = (&self.options, &self.options.shape);
        BoundAppend::new(&self.words, &self.segments, cache, tensors).await
    }

    /// Begins to record a plan, as [`Decode::begin`](super::Decode::begin) does.
    ///
    /// # Errors
    /// As there.
    pub fn begin<'a>(
        &self,
        encoder: &'a mut wgpu::CommandEncoder,
        plan: &'a Plan,
    ) -> Result<Recording<'a>> {
        check_kind(plan, Kind::Dense)?;
        self.words.begin(encoder, plan)
    }
}

impl BoundPrefill {
    /// Records attention of the plan's rows.
    ///
    /// # Errors
    /// As [`Bound::attend`](super::Bound::attend).
    pub fn attend(&self, pass: &mut Pass<'_>) -> Result<()> {
        let plan = pass.plan;
        let pass = pass.of(&self.words)?;
        for attend in &self.attend {
            attend.record(pass, plan.options.shape.q_heads(), plan.step.tiles, 1);
        }
        Ok(())
    }
}

fn rows(options: &Options) -> [Row; 2] {
    // Of one segment nothing is merged, so no states are kept.
    let states = prefill_states(&options.shape, options.limits.rows.into())
        .where_wanted(options.segments() > 1);
    [options.step(), states]
}

/// Checks that a plan is of this kind, which attends every token.
pub(super) fn check_kind(plan: &Plan, kind: Kind) -> Result<()> {
    if plan.kind == kind {
        return Ok(());
    }
    let limit = match kind {
        Kind::Slabs => "what goes by slabs is planned by the operator that does",
        _ => "prefill is dense",
    };
    Err(Error::argument("the selection of the batch", format!("{:?}", plan.kind), limit))
}

fn spec(gpu: &Gpu, options: &Options) -> ShaderSpec {
    let spec = kernels::prefill(gpu.tier, &options.shape, options.query_stride);
    kernels::with_layout(spec, options.layout)
}
