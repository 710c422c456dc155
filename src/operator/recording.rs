//! Recording a plan: how its words come to the device in the order of the commands that read them.

use super::{Options, Plan};
use crate::gpu::Gpu;
use crate::{Error, Result};
use futures::FutureExt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where the kernels of one operator read the words of a plan.
pub(super) struct Words {
    pub(super) gpu: Gpu,
    options: Options,
    pub(super) step: wgpu::Buffer,
    /// Where a caller's lists go.
    lists: Option<wgpu::Buffer>,
    /// How many recordings began.
    begun: AtomicU64,
}

/// A plan that is being recorded: from here on the encoder's commands find its words on the device.
///
/// It borrows the encoder, which [`Recording::encoder`] lends for what comes between: the projections and the feed-forward
/// networks of a model, say.
pub struct Recording<'a> {
    encoder: &'a mut wgpu::CommandEncoder,
    plan: &'a Plan,
    words: Arc<Words>,
    number: u64,
    /// Which encoder it is: the lent reference could be swapped.
    begun_in: u64,
}

impl Words {
    pub(super) fn new(
        gpu: Gpu,
        options: &Options,
        step: wgpu::Buffer,
        lists: Option<wgpu::Buffer>,
    ) -> Arc<Self> {
        Arc::new(Self { gpu, options: *options, step, lists, begun: AtomicU64::new(0) })
    }

    /// Records the copy of a plan's words. They are staged in a buffer of their own, so that several plans may be recorded
    /// before any is submitted.
    pub(super) fn begin<'a>(
        self: &Arc<Self>,
        encoder: &'a mut wgpu::CommandEncoder,
        plan: &'a Plan,
    ) -> Result<Recording<'a>> {
        if plan.options != self.options {
            let value = "made for other options";
            return Err(Error::argument("the plan", value, "the operator's own are needed"));
        }
        self.gpu.check()?;
        let number = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
        let parts = [(Some(&self.step), &plan.step.words), (self.lists.as_ref(), &plan.given)];
        for (to, words) in parts {
            let (Some(to), bytes) = (to, bytemuck::cast_slice::<u32, u8>(words)) else { continue };
            if !bytes.is_empty() {
                let from = self.stage(bytes)?;
                encoder.copy_buffer_to_buffer(&from, 0, to, 0, bytes.len() as u64);
            }
        }
        let begun_in = hash_of(&*encoder);
        Ok(Recording { encoder, plan, words: self.clone(), number, begun_in })
    }

    fn stage(&self, bytes: &[u8]) -> Result<wgpu::Buffer> {
        let device = &self.gpu.device;
        let scope = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let buffer = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("a plan"),
            size: bytes.len() as u64,
            usage: wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: true,
        });
        let refused = |detail: String| Error::OutOfMemory {
            what: "a plan".into(),
            bytes: bytes.len() as u64,
            detail,
        };
        // Answered at once but in a browser, where the device's own callback is told.
        if let Some(Some(error)) = scope.pop().now_or_never() {
            return Err(refused(error.to_string()));
        }
        let mut view = buffer.get_mapped_range_mut(..).map_err(|e| refused(e.to_string()))?;
        view.copy_from_slice(bytes);
        drop(view);
        buffer.unmap();
        Ok(buffer)
    }
}

fn hash_of(object: &impl Hash) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    object.hash(&mut hasher);
    hasher.finish()
}

impl<'a> Recording<'a> {
    /// The plan.
    pub fn plan(&self) -> &'a Plan {
        self.plan
    }

    /// The encoder, for commands of the caller's own.
    pub fn encoder(&mut self) -> &mut wgpu::CommandEncoder {
        self.encoder
    }

    /// Begins a pass for work on the plan. What follows in one pass, layer after layer, costs less than in passes of its own.
    ///
    /// # Errors
    /// [`Error::Argument`] where the operator began another recording since.
    pub fn pass(&mut self) -> Result<Pass<'_>> {
        // Another plan's words are where this one's were, if one began in this encoder: grids and words would not agree.
        if self.words.begun.load(Ordering::Relaxed) != self.number {
            let limit = "the operator has begun another since; begin again";
            return Err(Error::argument("the recording", "no longer the last", limit));
        }
        if hash_of(&*self.encoder) != self.begun_in {
            let limit = "it must be the one that the recording began in";
            return Err(Error::argument("the encoder", "another", limit));
        }
        let pass = self.words.gpu.pass(self.encoder, "attention", 0);
        let begun_as = hash_of(&pass);
        Ok(Pass { pass, plan: self.plan, words: &self.words, begun_as })
    }
}

/// A pass of a recording: what layers record their work into.
pub struct Pass<'p> {
    pass: wgpu::ComputePass<'p>,
    pub(super) plan: &'p Plan,
    words: &'p Arc<Words>,
    /// Which pass it is: the lent reference could be swapped.
    begun_as: u64,
}

impl<'p> Pass<'p> {
    /// wgpu's pass, for dispatches of the caller's own between those of layers.
    pub fn compute(&mut self) -> &mut wgpu::ComputePass<'p> {
        &mut self.pass
    }

    /// The pass, for kernels of the operator that these words belong to.
    pub(super) fn of(&mut self, words: &Arc<Words>) -> Result<&mut wgpu::ComputePass<'p>> {
        if !Arc::ptr_eq(words, self.words) {
            let limit = "it must be of the operator that these tensors are bound to";
            return Err(Error::argument("the recording", "of another operator", limit));
        }
        if hash_of(&self.pass) != self.begun_as {
            let limit = "it must be the one that the recording began";
            return Err(Error::argument("the pass", "another", limit));
        }
        Ok(&mut self.pass)
    }
}
