//! Dense attention of many rows over a caller's buffers: prompts, chunk by chunk.

use super::recording::Words;
use super::scratch::segment;
use super::tensors::{Access, Given, bind_all, most_bytes};
use super::{Batch, Options, Pass, Plan, PrefillTensors, Recording};
use crate::gpu::{Binding, Gpu, Op, ShaderSpec};
use crate::kernels;
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
    segment: wgpu::Buffer,
}

/// Tensors of one layer, bound to a [`Prefill`]'s kernel.
pub struct BoundPrefill {
    words: Arc<Words>,
    attend: Op,
}

impl Prefill {
    /// Makes the kernel.
    ///
    /// # Errors
    /// As [`Options::validate`]; [`Error::Argument`] for values that are shared with the keys, which are prefilled over keys and
    /// values made from them; what the device answers.
    pub async fn new(gpu: &Gpu, options: Options) -> Result<Self> {
        options.validate()?;
        if options.shape.shares_values() {
            let limit = "prefill needs values of their own, as long as the keys";
            return Err(Error::argument("the values", "a part of the keys", limit));
        }
        let bytes = options.step_words() * 4;
        if bytes > most_bytes(gpu) {
            let limit = format!("a kernel sees at most {} of one buffer here", most_bytes(gpu));
            return Err(Error::argument("the size of the step", bytes, limit));
        }
        let gpu = gpu.share();
        gpu.pipeline(&spec(&gpu, &options)).await?;
        // Nothing is merged, so no states are kept.
        let states = gpu.storage("attention states", 0).await?;
        let segment = segment(&gpu, &options).await?;
        let step = gpu.storage("the step", bytes).await?;
        let words = Words::new(gpu, &options, step, None);
        Ok(Self { words, options, states, segment })
    }

    /// Bytes of device memory that an operator takes for itself, but for some of a few bytes. Pure.
    ///
    /// # Errors
    /// As [`Options::validate`].
    pub fn scratch_bytes(options: &Options) -> Result<u64> {
        options.validate()?;
        Ok((options.step_words() * 4).next_multiple_of(16))
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
        check_dense(&plan)?;
        Ok(plan)
    }

    /// Binds a layer's tensors, which must have room for what [`Limits`](super::Limits) allows.
    ///
    /// # Errors
    /// As [`Decode::bind`](super::Decode::bind).
    pub async fn bind(&self, tensors: &PrefillTensors<'_>) -> Result<BoundPrefill> {
        let (options, gpu) = (&self.options, &self.words.gpu);
        let given = |what, range, needed, access| Some(Given { what, range, needed, access });
        let kv_bytes = options.cache_bytes(options.shape.block_bytes());
        let bound = bind_all(
            gpu,
            [
                given("queries", &tensors.queries, options.query_bytes(), Access::Read),
                given("keys and values", &tensors.kv, kv_bytes, Access::Read),
                given("the output", &tensors.output, options.output_bytes(), Access::Write),
            ],
        )?;
        let [Some(qkv), Some(kv), Some(out)] = bound else {
            unreachable!("each of them is there");
        };
        let prefill = kernels::Prefill {
            step: Binding::from(&self.words.step),
            segment: (&self.segment).into(),
            qkv,
            kv,
            out,
            states: (&self.states).into(),
        };
        let attend = gpu.op(&spec(gpu, options), prefill).await?;
        Ok(BoundPrefill { words: self.words.clone(), attend })
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
        check_dense(plan)?;
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
        self.attend.record(pass, plan.options.shape.q_heads(), plan.step.tiles, 1);
        Ok(())
    }
}

fn check_dense(plan: &Plan) -> Result<()> {
    match plan.kind {
        super::plan::Kind::Dense => Ok(()),
        kind => {
            let limit = "prefill is dense";
            Err(Error::argument("the selection of the batch", format!("{kind:?}"), limit))
        }
    }
}

fn spec(gpu: &Gpu, options: &Options) -> ShaderSpec {
    kernels::prefill(gpu.tier, &options.shape, options.query_stride)
}
