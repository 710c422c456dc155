//! The offload engine: which head-blocks are on the GPU, what must come from the host, and the buffers that carry it there
//! and back. What it records is small and fixed; what the GPU computes is the engine's.
//!
//! Its parts know nothing of one another: the blocks that are here ([`Residents`], [`Window`]) and in CPU memory
//! ([`HostCache`]), the rule by which they are fetched ([`FetchRule`]), the way up ([`Uploads`]) and the way back
//! ([`WriteBack`]).

mod options;
mod policy;
mod residents;
mod stats;
mod upload;
mod write_back;

pub use options::HostOptions;
pub use policy::FetchRule;
pub use residents::{Items, Residents, Wanted};
pub use stats::OffloadStats;
pub use upload::{Upload, Uploads};
pub use write_back::WriteBack;

use super::host::HostCache;
use super::memory::OffloadRows;
use super::window::Window;
use crate::Result;
use crate::attention::Shape;
use crate::gpu::Gpu;
use crate::kernels::HotSlots;
use crate::kv::Policy;

/// Bookkeeping and buffers of the offload engine.
pub struct Offload {
    /// When blocks are fetched.
    pub rule: FetchRule,
    /// Sealed blocks.
    pub host: HostCache,
    /// Blocks that all heads share.
    pub window: Window,
    /// Head-blocks that were chosen.
    pub residents: Residents,
    /// What goes to the GPU.
    pub uploads: Uploads,
    /// What comes from it.
    pub write_back: WriteBack,
}

impl Offload {
    /// Buffers and bookkeeping for `layers` layers over a pool of `slots.pool_blocks` blocks.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub(crate) async fn new(
        gpu: &Gpu,
        shape: &Shape,
        layers: u32,
        slots: HotSlots,
        options: &HostOptions,
        rows: &OffloadRows,
    ) -> Result<Self> {
        let format = shape.head_format(options.kv_type);
        let heads = u64::from(layers * shape.kv_heads);
        let hot_blocks = options.hot_blocks;
        Ok(Self {
            rule: FetchRule::new(options, heads, format.head_bytes()),
            host: HostCache::new(slots.pool_blocks, layers, format),
            window: Window::new(slots.slots - hot_blocks, slots.pool_blocks),
            residents: Residents::new(layers, shape.kv_heads, slots, hot_blocks),
            uploads: Uploads::new(gpu, shape, layers, options.kv_type, rows).await?,
            write_back: WriteBack::new(gpu, shape, &rows.write_back).await?,
        })
    }

    /// The counts up to now.
    pub fn stats(&self) -> OffloadStats {
        let counts = &self.residents.counts;
        OffloadStats {
            steps: counts.steps,
            hits: counts.hits,
            misses: counts.misses,
            left: counts.left,
            kept: counts.kept,
            chosen: counts.chosen,
            unattended: counts.unattended,
            redone: counts.redone,
            most_missed: counts.most_missed,
            bytes_up: self.uploads.bytes,
            bytes_down: self.write_back.bytes,
            hidden_seconds: self.uploads.hidden_seconds,
            exposed_seconds: self.uploads.exposed_seconds,
            ring_stalls: self.uploads.stalls(),
            gpu_bytes: 0,
            host_bytes: self.host.bytes(),
        }
    }

    /// Forgets blocks that are about to hold something else; whether one of them had a slot of its own.
    pub fn forget(&mut self, block: u32) -> bool {
        self.window.forget(block);
        self.reopen(block)
    }

    /// Forgets what the host and the slots of heads hold of a block of the window that is written to.
    pub fn reopen(&mut self, block: u32) -> bool {
        self.host.forget(block);
        self.residents.forget(block)
    }

    /// Notes the blocks that this step wants; what has to come is appended to `items`.
    pub fn want<F: Fn(usize, usize) -> Vec<u32> + Sync>(
        &mut self,
        wanted: Wanted<F>,
        items: &mut Vec<Items>,
    ) {
        self.residents.want(&self.uploads.threads, wanted, items);
    }

    /// As [`Offload::want`], for the step that follows and within the limits of a policy; how many are not there.
    pub fn want_next<F: Fn(usize, usize) -> Vec<u32> + Sync>(
        &mut self,
        wanted: Wanted<F>,
        policy: &Policy,
        items: &mut Vec<Items>,
    ) -> u64 {
        self.residents.want_next(&self.uploads.threads, wanted, policy, items)
    }

    /// Whether the host does not hold one of these blocks yet.
    pub fn lacks(&self, items: &[Items]) -> bool {
        let mut items = items.iter().flat_map(|(_, items)| items);
        items.any(|item| !self.host.holds(item.placement.block))
    }

    /// Gathers an upload's head-blocks into its slot, while the caller does something `beside`.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn fill<T>(
        &mut self,
        upload: &Upload,
        is_hidden: bool,
        beside: impl FnOnce() -> T,
    ) -> Result<T> {
        self.uploads.fill(&self.host, self.residents.epoch(), upload, is_hidden, beside)
    }

    /// Gathers one layer of consecutive blocks, whole, into a slot of the ring: for prompts, and for the window. None where
    /// the caller has to submit first.
    ///
    /// # Errors
    /// Errors of the device.
    pub async fn gather_blocks(
        &mut self,
        gpu: &Gpu,
        layer: usize,
        blocks: &[u32],
    ) -> Result<Option<Upload>> {
        self.uploads.gather(gpu, &self.host, layer, blocks).await
    }

    /// A slot for blocks that are written back, or none where the caller has to submit first.
    ///
    /// # Errors
    /// As [`Offload::complete`].
    pub async fn take_write_back(&mut self, gpu: &Gpu) -> Result<Option<usize>> {
        self.write_back.take(gpu, &mut self.host).await
    }

    /// Stores what has left the GPU; whether there was something.
    ///
    /// # Errors
    /// Errors of the device, or [`crate::Error::OutOfMemory`].
    pub fn complete(&mut self, gpu: &Gpu) -> Result<bool> {
        self.write_back.complete(gpu, &mut self.host)
    }

    /// Waits until everything that is written back is stored.
    ///
    /// # Errors
    /// As [`Offload::complete`].
    pub async fn complete_all(&mut self, gpu: &Gpu) -> Result<()> {
        self.write_back.complete_all(gpu, &mut self.host).await
    }

    /// Says which submission what was recorded went with.
    pub fn submitted(&mut self, index: &wgpu::SubmissionIndex) {
        self.uploads.submitted(index);
        self.write_back.submitted(index);
    }
}
