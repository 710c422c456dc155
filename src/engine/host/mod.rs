//! Steps of an engine whose blocks live in CPU memory: the GPU keeps the index of every token, a window of blocks that
//! every step attends, and a hot cache of blocks that were chosen; what is missing comes through a ring of mapped buffers.

mod decode;
mod lag;
mod prefill;
mod saved;
mod window;

use super::forward::GoesOn;
use super::memory::MemoryPlan;
use super::ops::HostOps;
use super::record::Mode;
use super::{Engine, Output, Session, Want};
use crate::gpu::Gpu;
use crate::kv::{Items, MappedRing, Offload, OffloadStats, Prepared, Upload};
use crate::memory::{self, Row};
use crate::model::ModelConfig;
use crate::{Error, Result};
use lag::Lag;

/// Layers whose blocks are chosen, fetched and placed together.
pub(super) const GROUP_LAYERS: usize = 6;

/// The state of an engine's offload.
pub(super) struct Host {
    pub(super) offload: Offload,
    ops: HostOps,
    /// What level 1 chose, on its way to the CPU.
    selections: MappedRing,
    groups: Vec<Group>,
    /// What the next step's candidates follow from.
    lag: Option<Lag>,
    /// Whether the GPU's words of where blocks are have to be written anew.
    pub(super) is_stale: bool,
}

/// What is on its way for a group of layers.
#[derive(Default)]
struct Group {
    /// The slot with what level 1 chose in the latest step.
    selection: Option<usize>,
    /// Head-blocks that have a slot of the hot cache, and still have to be gathered.
    items: Vec<Items>,
    /// Those that are gathered.
    uploads: Vec<Upload>,
}

impl Host {
    pub(super) async fn new(
        gpu: &Gpu,
        config: &ModelConfig,
        selections: &Row,
        offload: Offload,
        ops: HostOps,
    ) -> Result<Self> {
        let groups = (config.layers as usize).div_ceil(GROUP_LAYERS);
        Ok(Self {
            offload,
            ops,
            selections: MappedRing::new(gpu, selections).await?,
            groups: (0..groups).map(|_| Group::default()).collect(),
            lag: None,
            is_stale: false,
        })
    }

    /// Forgets what the latest step chose: the next one does not continue it.
    pub(super) fn forget_choice(&mut self) {
        self.lag = None;
    }

    /// Empties the hot cache. What was on its way when a step failed may not have been placed: no slot is relied on any more.
    pub(super) fn abandon(&mut self, gpu: &Gpu) {
        self.lag = None;
        for group in &mut self.groups {
            group.items.clear();
            for upload in group.uploads.drain(..) {
                self.offload.give_back(upload);
            }
            if let Some(slot) = group.selection.take() {
                // A device that cannot answer this will not answer the next step either.
                let waited = self.selections.wait(gpu, slot);
                let _ = waited.and_then(|()| self.selections.read(slot, |_| Ok(())));
            }
        }
        self.offload.clear_slots();
        self.is_stale = true;
    }
}

/// The blocks that a step writes to as their first.
fn new_blocks<'a>(
    batch: &'a [(&mut Session, &[u32])],
    prepared: &'a [Prepared],
) -> impl Iterator<Item = u32> + 'a {
    batch.iter().zip(prepared).flat_map(|((session, _), prepared)| {
        let copied = prepared.copied.map(|(_, new)| new);
        session.table.added(prepared).iter().copied().chain(copied)
    })
}

impl Engine {
    /// Layers whose blocks a step fetches and places together.
    pub const GROUP_LAYERS: usize = GROUP_LAYERS;

    /// What the offload engine did so far; none where the whole cache is on the GPU.
    pub async fn offload_stats(&self) -> Option<OffloadStats> {
        let host = self.host.as_ref()?.lock().await;
        Some(OffloadStats { gpu_bytes: self.kv_gpu_bytes(), ..host.offload.stats() })
    }

    /// The blocks that level 1 chose in the latest step, of its first session: layer, KV head, logical blocks ascending.
    /// None where that step chose none, or the KV cache is all on the GPU.
    pub async fn fetched_blocks(&self) -> Option<Vec<Vec<Vec<u32>>>> {
        let host = self.host.as_ref()?.lock().await;
        host.lag.as_ref()?.lists.iter().map(|rows| rows.first().cloned()).collect()
    }

    /// Bytes of GPU memory for the KV cache and its index: of the whole cache, or of the hot cache and what carries
    /// blocks to it and from it.
    pub fn kv_gpu_bytes(&self) -> u64 {
        let plan = MemoryPlan::new(&self.config, &self.options);
        plan.kv_bytes() + plan.bytes(memory::Group::Index)
    }

    pub(super) async fn run_host(
        &self,
        host: &mut Host,
        batch: &[(&mut Session, &[u32])],
        prepared: &[Prepared],
        (mode, want): (Mode<'_>, Want),
        goes_on: GoesOn<'_>,
    ) -> Result<Option<Output>> {
        host.offload.complete(&self.gpu)?;
        let result = async {
            self.take_new_blocks(host, batch, prepared)?;
            match mode {
                Mode::Prefill => {
                    self.finish_pending(host)?;
                    self.prefill_chunk(host, batch, want, goes_on).await
                }
                Mode::Decode(selection) => {
                    self.decode_host(host, batch, selection, want).await.map(Some)
                }
            }
        }
        .await;
        if matches!(result, Ok(Some(_))) {
            return result;
        }
        // What lands later would be counted for what is written then.
        let completed = host.offload.complete_all(&self.gpu);
        for block in new_blocks(batch, prepared) {
            host.offload.forget(block);
        }
        host.abandon(&self.gpu);
        result.and_then(|made| completed.map(|()| made))
    }

    // Blocks that were free hold nothing yet, whatever their numbers held before; a shared open block is copied for the one
    // that writes to it.
    fn take_new_blocks(
        &self,
        host: &mut Host,
        batch: &[(&mut Session, &[u32])],
        prepared: &[Prepared],
    ) -> Result<()> {
        for block in new_blocks(batch, prepared) {
            host.is_stale |= host.offload.forget(block);
        }
        self.settle_slots(host)?;
        for (old, new) in prepared.iter().filter_map(|prepared| prepared.copied) {
            self.copy_open_block(host, batch, old, new)?;
        }
        Ok(())
    }

    // Says anew where blocks are, if that has changed.
    fn settle_slots(&self, host: &mut Host) -> Result<()> {
        if host.is_stale {
            self.finish_pending(host)?;
            self.write_slots(host);
        }
        Ok(())
    }

    // Says anew where every block is.
    fn write_slots(&self, host: &mut Host) {
        for (layer, cache) in self.caches.iter().enumerate() {
            if let Some(slots) = &cache.slots {
                let words = host.offload.slot_words(layer);
                self.gpu.write(slots, 0, bytemuck::cast_slice(&words));
            }
        }
        host.is_stale = false;
    }

    // Submits what was recorded and begins anew.
    fn submit_host(&self, host: &mut Host, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        let index = self.submit_uploads(host, encoder)?;
        host.selections.submitted(&index);
        Ok(())
    }

    // As [`Engine::submit_host`], while a choice's way back is recorded elsewhere and not submitted yet.
    fn submit_uploads(
        &self,
        host: &mut Host,
        encoder: &mut wgpu::CommandEncoder,
    ) -> Result<wgpu::SubmissionIndex> {
        let next = self.gpu.device.create_command_encoder(&Default::default());
        let index = self.gpu.submit(std::mem::replace(encoder, next))?;
        host.offload.submitted(&index);
        Ok(index)
    }

    // Submits what was recorded, with a slot of the ring that is still to be filled, and then `rest`; begins anew.
    fn submit_with(
        &self,
        host: &mut Host,
        encoder: &mut wgpu::CommandEncoder,
        unfilled: Option<Upload>,
        rest: wgpu::CommandBuffer,
    ) -> Result<()> {
        let next = self.gpu.device.create_command_encoder(&Default::default());
        let recorded = std::mem::replace(encoder, next);
        let first = match unfilled {
            None => recorded.finish(),
            Some(upload) => host.offload.fill(&upload, false, || recorded.finish())?,
        };
        let index = self.gpu.submit_all([first, rest])?;
        host.offload.submitted(&index);
        host.selections.submitted(&index);
        Ok(())
    }

    // Records an upload: its copy, and what places its head-blocks.
    fn record_upload(&self, host: &mut Host, encoder: &mut wgpu::CommandEncoder, upload: &Upload) {
        self.record_arrival(host, encoder, upload);
        let mut pass = self.gpu.pass(encoder, "place", upload.first_layer());
        self.record_place(&mut pass, upload);
    }

    // Records an upload's copy.
    fn record_arrival(&self, host: &mut Host, encoder: &mut wgpu::CommandEncoder, upload: &Upload) {
        self.gpu.timed(encoder, "arrive", upload.first_layer(), |encoder| {
            host.offload.record_arrival(encoder, upload);
        });
    }

    // Records what places an upload's head-blocks once it has arrived.
    fn record_place(&self, pass: &mut wgpu::ComputePass<'_>, upload: &Upload) {
        for (layer, items) in &upload.parts {
            if let Some(ops) = &self.layers[*layer].host {
                for place in &ops.place {
                    place.record(pass, items.len() as u32, 1, 1);
                }
            }
        }
    }

    // Records the arrival of an upload's whole blocks, as f16.
    fn record_whole(
        &self,
        host: &mut Host,
        encoder: &mut wgpu::CommandEncoder,
        upload: &Upload,
        blocks: usize,
    ) {
        host.offload.record_arrival(encoder, upload);
        if let Some(unpack) = &host.ops.unpack {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            unpack.record(&mut pass, self.shape.kv_heads, blocks as u32, 1);
        }
    }

    // Records everything that is on its way for a group, and waits for the rest of it.
    fn record_group(
        &self,
        host: &mut Host,
        encoder: &mut wgpu::CommandEncoder,
        group: usize,
    ) -> Result<()> {
        for upload in std::mem::take(&mut host.groups[group].uploads) {
            self.record_upload(host, encoder, &upload);
        }
        let mut items = std::mem::take(&mut host.groups[group].items);
        // Behind the first group the GPU has the layers before to do.
        self.record_items(host, encoder, &mut items, group > 0)
    }

    // Gathers head-blocks and records their placement, slot after slot.
    fn record_items(
        &self,
        host: &mut Host,
        encoder: &mut wgpu::CommandEncoder,
        items: &mut Vec<Items>,
        is_hidden: bool,
    ) -> Result<()> {
        while let Some(upload) = self.load_next(host, encoder, items)? {
            self.record_upload(host, encoder, &upload);
            host.offload.fill(&upload, is_hidden, || ())?;
        }
        Ok(())
    }

    // A slot of the ring for as many head-blocks as it holds: what was recorded is submitted where all slots wait for that.
    fn load_next(
        &self,
        host: &mut Host,
        encoder: &mut wgpu::CommandEncoder,
        items: &mut Vec<Items>,
    ) -> Result<Option<Upload>> {
        while !items.is_empty() {
            if let Some(upload) = host.offload.load(Some(&self.gpu), items)? {
                return Ok(Some(upload));
            }
            self.submit_uploads(host, encoder)?;
        }
        Ok(None)
    }

    // Places what is on its way, so that no placement is pending.
    fn finish_pending(&self, host: &mut Host) -> Result<()> {
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        // Slots of the ring first.
        for group in 0..host.groups.len() {
            for upload in std::mem::take(&mut host.groups[group].uploads) {
                self.record_upload(host, &mut encoder, &upload);
            }
        }
        for group in 0..host.groups.len() {
            self.record_group(host, &mut encoder, group)?;
            if let Some(slot) = host.groups[group].selection.take() {
                host.selections.wait(&self.gpu, slot)?;
                host.selections.read(slot, |_| Ok(()))?;
            }
        }
        host.lag = None;
        self.submit_host(host, &mut encoder)
    }

    fn no_host_ops() -> Error {
        Error::Gpu("this engine keeps its whole cache on the GPU".into())
    }
}
