//! The way of sealed blocks from the GPU to the host cache.

use crate::Result;
use crate::attention::Shape;
use crate::gpu::Gpu;
use crate::kv::{HostCache, MappedRing};
use crate::memory::Row;

/// The ring that goes down, and what it carries.
pub struct WriteBack {
    ring: MappedRing,
    /// Blocks that a slot of the ring holds, each of one layer.
    cargo: Vec<Vec<(u32, usize)>>,
    /// Bytes of a layer of a block on the GPU.
    layer_bytes: u64,
    pub(super) bytes: u64,
}

impl WriteBack {
    pub(super) async fn new(gpu: &Gpu, shape: &Shape, row: &Row) -> Result<Self> {
        let cargo = vec![Vec::new(); row.count as usize];
        let ring = MappedRing::new(gpu, row).await?;
        Ok(Self { ring, cargo, layer_bytes: shape.block_bytes(), bytes: 0 })
    }

    /// Blocks of one layer that a slot holds.
    pub fn blocks(&self) -> usize {
        (self.ring.slot_bytes() / self.layer_bytes).max(1) as usize
    }

    /// A slot for blocks, or none where the caller has to submit first.
    pub(super) async fn take(&mut self, gpu: &Gpu, host: &mut HostCache) -> Result<Option<usize>> {
        self.complete(gpu, host)?;
        loop {
            if let Some(slot) = self.ring.take(gpu).await? {
                return Ok(Some(slot));
            }
            if !self.complete(gpu, host)? {
                return Ok(None);
            }
        }
    }

    /// Records the copy of blocks to such a slot: for each its buffer, where it is there, its number and its layer.
    pub fn record(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        slot: usize,
        blocks: &[(&wgpu::Buffer, u64, u32, usize)],
    ) {
        let size = self.layer_bytes;
        let to = self.ring.buffer(slot);
        for (i, (from, at, _, _)) in blocks.iter().enumerate() {
            encoder.copy_buffer_to_buffer(from, *at, to, i as u64 * size, size);
        }
        self.ring.send(slot, blocks.len() as u64 * size, encoder);
        self.cargo[slot] = blocks.iter().map(|&(_, _, block, layer)| (block, layer)).collect();
    }

    /// Stores what has left the GPU; whether there was something.
    pub(super) fn complete(&mut self, gpu: &Gpu, host: &mut HostCache) -> Result<bool> {
        self.ring.poll(gpu)?;
        let completed = self.ring.completed();
        for &slot in &completed {
            let cargo = std::mem::take(&mut self.cargo[slot]);
            self.bytes += cargo.len() as u64 * self.layer_bytes;
            self.ring.read(slot, |bytes| host.store(&cargo, bytes))?;
        }
        Ok(!completed.is_empty())
    }

    /// Waits until everything is stored.
    pub(super) async fn complete_all(&mut self, gpu: &Gpu, host: &mut HostCache) -> Result<()> {
        loop {
            self.ring.settle(gpu).await?;
            if !self.complete(gpu, host)? {
                return Ok(());
            }
        }
    }

    pub(super) fn submitted(&mut self, index: &wgpu::SubmissionIndex) {
        self.ring.submitted(index);
    }
}
