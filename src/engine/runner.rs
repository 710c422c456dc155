//! What steps work in, whatever cache they go over: a model's weights, the scratch, the operations that are bound to these two alone,
//! and the turn by which steps follow one another.

use super::memory::ScratchRows;
use super::ops::{EndOps, OpMaker, WeightOps};
use super::scratch::{CommonScratch, Scratch};
use super::{EngineOptions, Model, Output, words};
use crate::attention::Step;
use crate::gpu::Gpu;
use crate::{Error, Result, kernels};
use futures::lock::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::sync::Arc;

// What `arg_max` writes where no token can be chosen.
const NO_TOKEN: u32 = u32::MAX;

/// Weights and a scratch, for the steps of any number of caches, one at a time.
pub(super) struct Runner {
    model: Arc<Model>,
    rows: ScratchRows,
    scratch: Scratch,
    ends: EndOps,
    layers: Vec<Arc<WeightOps>>,
    // Two steps at a time would share the scratch.
    turn: Mutex<()>,
    // The device: last, since a device goes after all that was made on it.
    gpu: Gpu,
}

impl Runner {
    /// A runner with a scratch of these rows.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub(super) async fn new(
        gpu: &Gpu,
        model: Arc<Model>,
        options: &EngineOptions,
        rows: ScratchRows,
    ) -> Result<Self> {
        let scratch = Scratch::new(gpu, &rows).await?;
        let config = model.config();
        let (shape, uniforms) = (options.shape(config), HashMap::new());
        let mut maker = OpMaker { gpu, config, options, shape, scratch: &scratch, uniforms };
        let ends = maker.ends(&model).await?;
        let mut layers = Vec::new();
        for weights in model.layers() {
            layers.push(Arc::new(maker.weight_ops(weights).await?));
        }
        let (turn, gpu) = (Mutex::new(()), gpu.share());
        Ok(Self { model, rows, scratch, ends, layers, turn, gpu })
    }

    /// Refuses steps that need more room than there is: their rows are these.
    ///
    /// # Errors
    /// [`Error::Argument`].
    pub(super) fn check(&self, rows: &ScratchRows) -> Result<()> {
        let slab = |rows: &ScratchRows| rows.latent.as_ref().map(|(_, tokens)| *tokens);
        if let (Some(own), Some(other)) = (slab(&self.rows), slab(rows))
            && own != other
        {
            let limit = format!("the scratch was made for {own}");
            return Err(Error::argument("the tokens of a slab", other, limit));
        }
        for (own, other) in self.rows.rows().zip(rows.rows()) {
            if other.bytes > own.bytes {
                let (value, limit) = (other.bytes, own.bytes);
                let value = format!("{value} bytes of scratch");
                let limit = format!("{limit} are there: the first engine is the largest");
                return Err(Error::argument(other.what.clone(), value, limit));
            }
        }
        Ok(())
    }

    /// The model.
    pub(super) fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The scratch, for whoever has the turn.
    pub(super) fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// What each layer records that needs no cache.
    pub(super) fn layers(&self) -> &[Arc<WeightOps>] {
        &self.layers
    }

    /// Waits for the steps before.
    pub(super) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Records the embedding of a step's rows.
    pub(super) fn record_embedding(&self, pass: &mut wgpu::ComputePass<'_>, step: &Step) {
        let units = self.model.config().hidden.div_ceil(32);
        for embed in &self.ends.embed {
            embed.record(pass, units.div_ceil(8), step.rows, 1);
        }
    }

    /// Records what is wanted of a step's rows.
    pub(super) fn record_logits(&self, pass: &mut wgpu::ComputePass<'_>, step: &Step) {
        if step.outputs == 0 {
            return;
        }
        self.ends.output_norm.record(pass, step.outputs, 1, 1);
        self.ends.logits.record_matvec(pass, step.outputs);
        if step.winners > 0 {
            let parts = kernels::arg_max_parts(self.model.config().vocabulary);
            self.ends.arg_max_part.record(pass, parts, step.winners, 1);
            self.ends.arg_max.record(pass, step.winners, 1, 1);
        }
    }

    /// Submits a step and reads back what is wanted.
    ///
    /// # Errors
    /// Errors of the device.
    pub(super) async fn finish(
        &self,
        encoder: wgpu::CommandEncoder,
        step: &Step,
    ) -> Result<Output> {
        let index = self.submit_wanted(encoder, step)?;
        self.read_wanted(index, step).await
    }

    // Bytes of the tokens that are wanted, and of the logits.
    fn wanted_bytes(&self, step: &Step) -> (u64, u64) {
        let vocabulary = u64::from(self.model.config().vocabulary);
        let logits = u64::from(step.outputs - step.winners) * vocabulary;
        (u64::from(step.winners) * 4, logits * 4)
    }

    /// Submits the end of a step.
    ///
    /// # Errors
    /// Errors of the device.
    pub(super) fn submit_wanted(
        &self,
        mut encoder: wgpu::CommandEncoder,
        step: &Step,
    ) -> Result<wgpu::SubmissionIndex> {
        let CommonScratch { winners, logits, staging, .. } = &*self.scratch;
        let (tokens, bytes) = self.wanted_bytes(step);
        if tokens > 0 {
            encoder.copy_buffer_to_buffer(winners, 0, staging, 0, tokens);
        }
        if bytes > 0 {
            // Those of rows whose tokens are wanted come first, and take more room than the tokens.
            let first = tokens * u64::from(self.model.config().vocabulary);
            encoder.copy_buffer_to_buffer(logits, first, staging, tokens, bytes);
        }
        self.gpu.submit(encoder)
    }

    /// Waits for the end of a step and reads what is wanted.
    ///
    /// # Errors
    /// Errors of the device.
    pub(super) async fn read_wanted(
        &self,
        index: wgpu::SubmissionIndex,
        step: &Step,
    ) -> Result<Output> {
        let (tokens, logits) = self.wanted_bytes(step);
        if tokens + logits == 0 {
            self.gpu.wait(index).await?;
            return Ok(Output::default());
        }
        let words = words(&self.gpu.read(&self.scratch.staging, tokens + logits).await?);
        let (tokens, logits) = words.split_at(step.winners as usize);
        let token = |&word: &u32| (word != NO_TOKEN).then_some(word);
        let row = |row: &[u32]| row.iter().map(|&word| f32::from_bits(word)).collect();
        let vocabulary = self.model.config().vocabulary as usize;
        Ok(Output {
            tokens: tokens.iter().map(token).collect(),
            logits: logits.chunks_exact(vocabulary).map(row).collect(),
        })
    }
}
