//! Decode attention over a caller's buffers: few rows, over all tokens or over those that are selected.

use super::append::{AppendTensors, BoundAppend};
use super::layer::Layer;
use super::recording::Words;
use super::scratch::{Scratch, ScratchRows, check};
use super::specs::{Specs, specs};
use super::tensors::{self, Access, Given, bind_all, check_channels};
use super::{Batch, Bound, Options, Plan, Recording, Selector, Tensors};
use crate::attention::Divisor;
use crate::gpu::Gpu;
use crate::memory::sum;
use crate::{Error, Result, kernels};
use std::sync::Arc;

/// Decode attention: the kernels for a shape and a selector, and the scratch that they need. One serves every layer of a
/// model, in turn.
pub struct Decode {
    pub(super) words: Arc<Words>,
    pub(super) options: Options,
    pub(super) selector: Selector,
    pub(super) scratch: Scratch,
}

impl Decode {
    /// Makes the kernels and allocates the scratch.
    ///
    /// # Errors
    /// As [`Options::validate`]; [`Error::Argument`] for limits whose scratch no kernel of this device could see; what the
    /// device answers.
    pub async fn new(gpu: &Gpu, options: Options, selector: Selector) -> Result<Self> {
        options.validate()?;
        let rows = ScratchRows::new(&options, selector);
        check(gpu, rows.rows())?;
        let gpu = gpu.share();
        for spec in specs(&gpu, &options, selector) {
            gpu.pipeline(&spec).await?;
        }
        let scratch = Scratch::new(&gpu, &options, &rows).await?;
        let lists = scratch.chosen_tokens.clone().filter(|_| selector == Selector::Caller);
        let step = gpu.allocate(&rows.step).await?;
        let words = Words::new(gpu, &options, step, lists);
        Ok(Self { words, options, selector, scratch })
    }

    /// Bytes of device memory that an operator takes for itself, whatever is bound to it: the scratch, but for some uniforms of
    /// a few bytes. Pure.
    ///
    /// # Errors
    /// As [`Options::validate`].
    pub fn scratch_bytes(options: &Options, selector: Selector) -> Result<u64> {
        options.validate()?;
        Ok(sum(ScratchRows::new(options, selector).rows()))
    }

    /// What it was made for.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Plans a batch: [`Plan::new`] for this operator's options. Nothing is asked of the device.
    ///
    /// # Errors
    /// As [`Plan::new`]; [`Error::Argument`] for what this operator's selector does not select.
    pub fn plan(&self, batch: &Batch<'_>) -> Result<Plan> {
        let plan = Plan::new(&self.options, batch)?;
        self.check_selector(&plan)?;
        Ok(plan)
    }

    fn check_selector(&self, plan: &Plan) -> Result<()> {
        if plan.kind.suits(self.selector) {
            return Ok(());
        }
        let limit = format!("the operator was made for {:?}", self.selector);
        Err(Error::argument("the selection of the batch", format!("{:?}", plan.kind), limit))
    }

    /// Binds a layer's tensors, which must have room for what [`Limits`](super::Limits) allows: a plan that was made then fits.
    /// Of the buffers only references are kept; channels are copied to the device.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the tensor that is missing, too small, not aligned, of the wrong usage, in a buffer with
    /// another one, of another device, or that no kernel reads; ranges of the cache that share bytes; channels that are not
    /// different dimensions. Of another `wgpu::Instance` wgpu itself cannot tell.
    pub async fn bind(&self, tensors: &Tensors<'_>) -> Result<Bound> {
        let (options, shape) = (&self.options, &self.options.shape);
        let gpu = &self.words.gpu;
        self.check_index(tensors)?;
        let codes = tensors.codes.as_ref();
        let given = |what: &'static str, range, needed, access| Given {
            what: what.into(),
            range,
            needed,
            access,
        };
        let cache = tensors::cache((options, shape), tensors::ATTENDED, &tensors.kv, Access::Read)?;
        let output_bytes = options.output_bytes();
        let (kv, bound) = bind_all(
            gpu,
            cache,
            [
                Some(given("queries", &tensors.queries, options.query_bytes(), Access::Read)),
                Some(given("the output", &tensors.output, output_bytes, Access::Write)),
                codes.map(|index| {
                    let bytes = options.cache_bytes(shape.block_code_bytes());
                    given("the codes", &index.codes, bytes, Access::Write)
                }),
                self.selector.summary().zip(tensors.summary.as_ref()).map(|(kept, summary)| {
                    let bytes = options.cache_bytes(kept.block_bytes(shape));
                    given("the summary", summary, bytes, Access::Write)
                }),
            ],
        )
        .await?;
        let [Some(qkv), Some(out), codes_range, summary] = bound else {
            unreachable!("two of them are there");
        };
        let codes = match (codes, codes_range) {
            (Some(index), Some(range)) => {
                let channels = bytemuck::cast_slice(index.channels);
                Some((gpu.storage_with("index channels", channels).await?, range))
            }
            _ => None,
        };
        let layer = Layer { decode: self, qkv, kv, codes, summary };
        let merge = kernels::Merge {
            step: (&self.words.step).into(),
            merge: (&self.scratch.uniforms.merge).into(),
            partial_o: (&self.scratch.partials.partial_o).into(),
            partial_ml: (&self.scratch.partials.partial_ml).into(),
            out,
        };
        let specs = Specs::new(gpu, options);
        let selected = match self.selector {
            Selector::Dense => None,
            _ => Some(layer.split(&specs.sparse(), self.scratch.chosen_tokens.as_ref()).await?),
        };
        let (level_1, level_2) = match (self.selector, &self.scratch.levels) {
            (Selector::TwoLevel { blocks, tokens }, Some(scratch)) => {
                let divisor = Divisor::of(blocks, tokens);
                (
                    Some(layer.level_1((blocks, divisor), scratch).await?),
                    Some(layer.level_2((tokens, divisor), scratch).await?),
                )
            }
            _ => (None, None),
        };
        Ok(Bound {
            words: self.words.clone(),
            selector: self.selector,
            dense: layer.split(&specs.dense(), None).await?,
            selected,
            level_1,
            level_2,
            merge: gpu.op(&specs.merge(), merge).await?,
            index: layer.index().await?,
        })
    }

    /// Binds new keys and values of a layer, which are to be appended to its cache.
    ///
    /// # Errors
    /// As [`Decode::bind`]; [`Error::Argument`] for rows that overlap, or values that the shape has not.
    pub async fn bind_append(&self, tensors: &AppendTensors<'_>) -> Result<BoundAppend> {
        let cache = (&self.options, &self.options.shape);
        BoundAppend::new(&self.words, &self.scratch.uniforms.segments, cache, tensors).await
    }

    fn check_index(&self, tensors: &Tensors<'_>) -> Result<()> {
        for (what, is_there, is_read) in [
            ("the codes of the index", tensors.codes.is_some(), self.selector.reads_codes()),
            ("the summary of blocks", tensors.summary.is_some(), self.selector.summary().is_some()),
        ] {
            let limit = match (is_there, is_read) {
                (true, false) => "the operator's selector does not read them",
                (false, true) => "the operator's selector reads them",
                _ => continue,
            };
            let value = if is_there { "given" } else { "missing" };
            return Err(Error::argument(what, value, limit));
        }
        match &tensors.codes {
            Some(codes) => check_channels(&self.options.shape, codes.channels),
            None => Ok(()),
        }
    }

    /// Begins to record a plan: stages its words and records their copy to where the kernels read them. That staging buffer is
    /// all that is allocated from here on.
    ///
    /// # Errors
    /// [`Error::Argument`] for the plan of another operator; [`Error::OutOfMemory`].
    pub fn begin<'a>(
        &self,
        encoder: &'a mut wgpu::CommandEncoder,
        plan: &'a Plan,
    ) -> Result<Recording<'a>> {
        self.check_selector(plan)?;
        self.words.begin(encoder, plan)
    }

    /// What level 2 chose in the last two-level plan that the device ran: u32 positions, \[row\]\[KV head\]\[[`Plan::tokens_kept`]\],
    /// ascending, of which [`Plan::attended`] makes what a row attends. To be copied from; what is written to it is lost.
    pub fn chosen_tokens(&self) -> Option<&wgpu::Buffer> {
        self.scratch.levels.as_ref().and(self.scratch.chosen_tokens.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::{BlockScorer, Shape, TokenScorer};
    use crate::gpu::{Adapter, GpuOptions, adapters};
    use crate::operator::Limits;

    #[test]
    fn the_scratch_is_as_large_as_is_told() {
        pollster::block_on(async {
            let here = adapters().await;
            let Ok(adapter) = Adapter::choose(&here, None) else { return };
            let gpu = Gpu::open(&adapter, GpuOptions::default()).await.unwrap();
            let limits = Limits { rows: 3, sequences: 2, tokens: 1001, cache_blocks: 40 };
            let options = Options::new(&gpu, Shape::new(2, 5, 32, true), limits);
            let (blocks, tokens) = (BlockScorer::Codes, TokenScorer::Codes);
            for selector in
                [Selector::Dense, Selector::Caller, Selector::TwoLevel { blocks, tokens }]
            {
                let decode = Decode::new(&gpu, options, selector).await.unwrap();
                let told = Decode::scratch_bytes(&options, selector).unwrap();
                let gpu = &decode.words.gpu;
                assert_eq!(gpu.allocated_bytes() - gpu.parameter_bytes(), told, "{selector:?}");
            }
        });
    }
}
