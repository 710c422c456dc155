//! The offload engine's bookkeeping: which head-blocks are on the GPU, what must come from the host, and the buffers that
//! carry it there and back. What it records is small and fixed; what the GPU computes is the engine's.

use super::gatherers::Gatherers;
use super::host::HostCache;
use super::hot::{HotCache, Placement, Policy};
use super::mapped_ring::{MappedRing, Way};
use super::window::Window;
use crate::attention::{Shape, Timing};
use crate::formats::{HeadFormat, KvType};
use crate::gpu::{Clock, Gpu};
use crate::kernels::{HotSlots, NO_SLOT};
use crate::{Error, Result};
use serde::Serialize;
use std::sync::Arc;
use std::time::Instant;

/// Where the KV cache lives when it does not all stay on the GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct HostOptions {
    /// Slots of each layer's KV head for blocks that are chosen.
    pub hot_blocks: u32,
    /// Blocks at the start of a session that always stay on the GPU.
    pub sink_blocks: u32,
    /// Latest sealed blocks of a session that always stay on the GPU.
    pub recent_blocks: u32,
    /// Bytes of a slot of the ring that carries blocks to the GPU.
    pub ring_bytes: u64,
    /// Slots of that ring.
    pub ring_slots: u32,
    /// The stored type of blocks in CPU memory, and on their way from there; on the GPU they are f16.
    pub kv_type: KvType,
    /// When chosen blocks have to be there.
    pub timing: Timing,
    /// In how many steps in a row the `resident` rule must miss a block before it is fetched.
    pub patience: u32,
    /// Most bytes that a step of the `resident` rule fetches.
    pub most_fetched: u64,
    /// Whether blocks for the next step are gathered while the GPU works on this one. False is for measuring what that
    /// gains.
    pub overlaps: bool,
}

impl HostOptions {
    /// `hot_blocks` slots a KV head for a model whose whole cache takes `whole` bytes of CPU memory, of which a block of one
    /// layer takes `block_bytes`.
    pub fn new(hot_blocks: u32, whole: u64, block_bytes: u64) -> Self {
        // Large enough for the link, small beside the cache that is saved: 32 MiB from 6 GiB on.
        let ring_bytes = (whole / 192).clamp(256 << 10, 32 << 20).max(2 * block_bytes);
        Self {
            hot_blocks,
            sink_blocks: 1,
            recent_blocks: 4,
            ring_bytes,
            ring_slots: if whole < 1 << 30 { 3 } else { 6 },
            kv_type: KvType::F16,
            timing: Timing::Exact,
            patience: 1,
            most_fetched: u64::MAX,
            overlaps: true,
        }
    }

    /// Whole blocks of one layer that a slot of the ring holds, stored like this.
    pub fn piece_blocks(&self, format: &HeadFormat) -> u64 {
        (self.ring_bytes.next_multiple_of(256) / format.block_bytes()).max(1)
    }

    /// Slots of the window: the blocks that always stay, and the open one, of every session.
    pub fn window_blocks(&self, sessions: u32) -> u32 {
        // And one while a prompt goes on in a block that will not be in the window.
        sessions * (self.sink_blocks + self.recent_blocks + 1) + 1
    }
}

/// Counts of what the offload engine did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct OffloadStats {
    /// Decode steps.
    pub steps: u64,
    /// Head-blocks that a step wanted and found on the GPU.
    pub hits: u64,
    /// Head-blocks that a step wanted and did not find there.
    pub misses: u64,
    /// Of those that were missed, the ones that were not fetched.
    pub left: u64,
    /// Head-blocks that a step wanted and the step before had wanted too.
    pub kept: u64,
    /// Bytes that went to the GPU.
    pub bytes_up: u64,
    /// Bytes that came from the GPU.
    pub bytes_down: u64,
    /// Seconds in which the host gathered blocks while the GPU had work.
    pub hidden_seconds: f64,
    /// Seconds in which the host gathered blocks and the GPU waited for them.
    pub exposed_seconds: f64,
    /// How often a slot of the ring was waited for.
    pub ring_stalls: u64,
    /// Bytes of KV cache on the GPU: hot slots, rings and what chunks go through.
    pub gpu_bytes: u64,
    /// Bytes of KV cache in CPU memory.
    pub host_bytes: u64,
}

/// A head-block on its way.
#[derive(Clone, Copy, Debug)]
pub struct Item {
    /// KV head.
    pub head: u32,
    /// The block and its slot.
    pub placement: Placement,
}

/// Head-blocks of a layer that have to come.
pub type Items = (usize, Vec<Item>);

/// A slot of the ring, and what it carries.
#[derive(Debug)]
pub struct Upload {
    slot: usize,
    bytes: u64,
    /// The items of each part; nothing of whole blocks.
    pub parts: Vec<Items>,
}

impl Upload {
    /// The first layer that it carries something for.
    pub fn first_layer(&self) -> usize {
        self.parts.first().map_or(0, |(layer, _)| *layer)
    }
}

/// Bookkeeping and buffers of the offload engine.
pub struct Offload {
    options: HostOptions,
    slots: HotSlots,
    layers: usize,
    kv_heads: u32,
    /// Bytes of a layer of a block on the GPU.
    layer_bytes: u64,
    /// Sealed blocks.
    pub host: HostCache,
    /// Blocks that all heads share.
    pub window: Window,
    hot: Vec<HotCache>,
    ring: MappedRing,
    /// Whole blocks that a prompt attends, as f16; and as long as those are stored as such, all that arrives.
    pub arrived: wgpu::Buffer,
    /// The place of blocks that arrive and are not stored as f16.
    packed: Option<wgpu::Buffer>,
    write_back: MappedRing,
    /// Blocks that a slot of `write_back` holds, each of one layer.
    cargo: Vec<Vec<(u32, usize)>>,
    gatherers: Gatherers,
    clock: Option<Arc<Clock>>,
    step: u64,
    /// The counts so far.
    pub stats: OffloadStats,
}

impl Offload {
    /// Buffers and bookkeeping for `layers` layers over a pool of `slots.pool_blocks` blocks.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub async fn new(
        gpu: &Gpu,
        shape: &Shape,
        layers: u32,
        slots: HotSlots,
        options: HostOptions,
        write_back_blocks: u32,
    ) -> Result<Self> {
        let ring =
            MappedRing::new(gpu, "the ring", Way::Up, options.ring_slots, options.ring_bytes)
                .await?;
        let write_back_bytes = u64::from(write_back_blocks) * shape.block_bytes();
        let write_back =
            MappedRing::new(gpu, "blocks that are written back", Way::Down, 3, write_back_bytes)
                .await?;
        let hot_slots = options.hot_blocks;
        let format = shape.head_format(options.kv_type);
        let (arrived, packed) = Self::arrival_bytes(&options, shape);
        let packed = match packed {
            0 => None,
            bytes => Some(gpu.storage("what arrived, as it is stored", bytes).await?),
        };
        Ok(Self {
            options,
            slots,
            layers: layers as usize,
            kv_heads: shape.kv_heads,
            layer_bytes: shape.block_bytes(),
            host: HostCache::new(slots.pool_blocks, layers, format),
            window: Window::new(slots.slots - hot_slots, slots.pool_blocks),
            hot: (0..layers * shape.kv_heads)
                .map(|_| HotCache::new(hot_slots, slots.pool_blocks))
                .collect(),
            arrived: gpu.storage("what arrived", arrived).await?,
            packed,
            cargo: vec![Vec::new(); 3],
            ring,
            write_back,
            gatherers: Gatherers::new()?,
            clock: gpu.clock.clone(),
            step: 0,
            stats: OffloadStats::default(),
        })
    }

    /// Bytes of the buffers that an offload engine makes besides the hot slots.
    pub fn bytes(options: &HostOptions, shape: &Shape, write_back_blocks: u32) -> u64 {
        let write_back = (u64::from(write_back_blocks) * shape.block_bytes()).next_multiple_of(256);
        let ring = options.ring_bytes.next_multiple_of(256) * u64::from(options.ring_slots);
        let (arrived, packed) = Self::arrival_bytes(options, shape);
        ring + arrived + packed + 3 * write_back
    }

    // Bytes of `arrived`, and of `packed`, which is not there where they are none.
    fn arrival_bytes(options: &HostOptions, shape: &Shape) -> (u64, u64) {
        let slot = options.ring_bytes.next_multiple_of(256);
        let format = shape.head_format(options.kv_type);
        match options.kv_type {
            KvType::F16 => (slot, 0),
            KvType::Q8_0 => (options.piece_blocks(&format) * shape.block_bytes(), slot),
        }
    }

    /// Where an upload arrives.
    pub fn uploaded(&self) -> &wgpu::Buffer {
        self.packed.as_ref().unwrap_or(&self.arrived)
    }

    // Bytes of a head-block as it is stored.
    fn head_bytes(&self) -> u64 {
        self.host.format().head_bytes()
    }

    /// How it was set up.
    pub fn options(&self) -> &HostOptions {
        &self.options
    }

    /// The counts up to now.
    pub fn stats(&self) -> OffloadStats {
        OffloadStats { ring_stalls: self.ring.stalls, host_bytes: self.host.bytes(), ..self.stats }
    }

    /// Begins a decode step.
    pub fn begin_step(&mut self) {
        // Between two steps lies what the first wants for the second.
        self.step += 2;
        self.stats.steps += 1;
    }

    fn hot(&self, layer: usize, head: u32) -> &HotCache {
        &self.hot[layer * self.kv_heads as usize + head as usize]
    }

    /// The number that tells the head-blocks that arrive in this step from those that were there.
    pub fn epoch(&self) -> u32 {
        self.step as u32
    }

    /// Notes the blocks that this step wants of a layer, one list a KV head; what has to come is appended to `items`.
    pub fn want(&mut self, layer: usize, wanted: &[Vec<u32>], items: &mut Vec<Items>) {
        self.want_in(self.step, layer, wanted, false, items);
    }

    /// As [`Offload::want`], for the step that follows; a patient one fetches within the limits of the options.
    pub fn want_next(
        &mut self,
        layer: usize,
        wanted: &[Vec<u32>],
        is_patient: bool,
        items: &mut Vec<Items>,
    ) {
        self.want_in(self.step + 1, layer, wanted, is_patient, items);
    }

    fn want_in(
        &mut self,
        step: u64,
        layer: usize,
        wanted: &[Vec<u32>],
        is_patient: bool,
        items: &mut Vec<Items>,
    ) {
        let heads = self.kv_heads as usize;
        let policy = if is_patient {
            let shared =
                self.options.most_fetched / self.head_bytes() / (self.layers * heads) as u64;
            Policy {
                patience: self.options.patience,
                most: shared.clamp(1, u64::from(u32::MAX)) as u32,
            }
        } else {
            Policy { patience: 1, most: u32::MAX }
        };
        let mut of_layer = Vec::new();
        let mut placed = Vec::new();
        for (head, wanted) in wanted.iter().enumerate() {
            placed.clear();
            let hot = &mut self.hot[layer * heads + head];
            let admitted = hot.admit(step, step, wanted, &policy, &mut placed);
            self.stats.hits += u64::from(admitted.hits);
            self.stats.misses += placed.len() as u64 + u64::from(admitted.left);
            self.stats.left += u64::from(admitted.left);
            of_layer.extend(placed.iter().map(|&placement| Item {
                head: head as u32,
                placement: Placement { slot: placement.slot + self.window_slots(), ..placement },
            }));
        }
        if !of_layer.is_empty() {
            items.push((layer, of_layer));
        }
    }

    fn window_slots(&self) -> u32 {
        self.slots.slots - self.options.hot_blocks
    }

    /// Whether a block has a slot of its own for this layer and KV head.
    pub fn is_resident(&self, layer: usize, head: u32, block: u32) -> bool {
        self.hot(layer, head).slot_of(block).is_some()
    }

    /// Words that say where every block of a layer is, as the GPU keeps them.
    pub fn slot_words(&self, layer: usize) -> Vec<u32> {
        let mut words = vec![NO_SLOT; self.slots.words(self.kv_heads) as usize];
        for head in 0..self.kv_heads {
            let first = (head * self.slots.pool_blocks) as usize;
            let hot = self.hot(layer, head);
            for block in hot.residents() {
                if let Some(slot) = hot.slot_of(block) {
                    words[first + block as usize] = slot + self.window_slots();
                }
            }
        }
        words
    }

    /// Forgets blocks that are about to hold something else; whether one of them had a slot of its own.
    pub fn forget(&mut self, block: u32) -> bool {
        self.window.forget(block);
        self.reopen(block)
    }

    /// Forgets what the host and the slots of heads hold of a block of the window that is written to.
    pub fn reopen(&mut self, block: u32) -> bool {
        self.host.forget(block);
        let mut had_slot = false;
        for hot in &mut self.hot {
            had_slot |= hot.forget(block).is_some();
        }
        had_slot
    }

    /// Whether the host does not hold one of these blocks yet.
    pub fn lacks(&self, items: &[Items]) -> bool {
        let mut items = items.iter().flat_map(|(_, items)| items);
        items.any(|item| !self.host.holds(item.placement.block))
    }

    /// Takes a slot of the ring for as many of `items` as it holds, and takes them out; none where no slot is free now. With
    /// `gpu`, waits for one. It is to be filled before a submission copies from it.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn load(&mut self, gpu: Option<&Gpu>, items: &mut Vec<Items>) -> Result<Option<Upload>> {
        if items.is_empty() {
            return Ok(None);
        }
        let slot = match gpu {
            Some(gpu) => self.ring.take(gpu)?,
            None => self.ring.take_free(),
        };
        let Some(slot) = slot else { return Ok(None) };
        // The header, then part after part: what goes where, and the head-blocks.
        let vecs = 1 + self.head_bytes() / 16;
        let header = self.layers as u64;
        let mut room = (self.ring.slot_bytes() / 16 - header) / vecs;
        let mut parts: Vec<Items> = Vec::new();
        while let Some((layer, of_layer)) = items.first_mut().filter(|_| room > 0) {
            let count = of_layer.len().min(room as usize);
            parts.push((*layer, of_layer.drain(..count).collect()));
            room -= count as u64;
            if of_layer.is_empty() {
                items.remove(0);
            }
        }
        if parts.is_empty() {
            return Err(Error::argument(
                "the ring's slot",
                format!("{} bytes", self.ring.slot_bytes()),
                format!("a head-block takes {} bytes", self.head_bytes()),
            ));
        }
        let count: usize = parts.iter().map(|(_, part)| part.len()).sum();
        Ok(Some(Upload { slot, bytes: (header + count as u64 * vecs) * 16, parts }))
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
        let began = Instant::now();
        let size = self.head_bytes() as usize;
        let mut at = self.layers as u64;
        let mut header = vec![[0u32; 4]; self.layers];
        let mut lists: Vec<Vec<[u32; 4]>> = Vec::new();
        for (layer, part) in &upload.parts {
            header[*layer] = [at as u32, part.len() as u32, self.step as u32, 0];
            at += part.len() as u64 * (1 + self.head_bytes() / 16);
            let words = part.iter().map(|Item { head, placement }| {
                let evicted = placement.evicted.unwrap_or(NO_SLOT);
                [*head, placement.slot, placement.block, evicted]
            });
            lists.push(words.collect());
        }
        let mut pieces: Vec<&[u8]> = vec![bytemuck::cast_slice(&header)];
        for ((layer, part), list) in upload.parts.iter().zip(&lists) {
            pieces.push(bytemuck::cast_slice(list));
            for item in part {
                let layer = self.host.layer(item.placement.block, *layer);
                pieces.push(&layer[item.head as usize * size..][..size]);
            }
        }
        let made = self.ring.fill(upload.slot, &pieces, &self.gatherers, beside)?;
        self.stats.bytes_up += upload.bytes;
        self.count_time(began, upload.first_layer(), is_hidden);
        Ok(made)
    }

    /// Announces that blocks are to be gathered within microseconds.
    pub fn stand_by(&self) {
        self.gatherers.stand_by();
    }

    fn count_time(&mut self, began: Instant, layer: usize, is_hidden: bool) {
        if let Some(clock) = &self.clock {
            clock.note("gather", layer, began);
        }
        let seconds = if is_hidden {
            &mut self.stats.hidden_seconds
        } else {
            &mut self.stats.exposed_seconds
        };
        *seconds += began.elapsed().as_secs_f64();
    }

    /// Gathers one layer of consecutive blocks, whole, into a slot of the ring: for prompts, and for the window. None where
    /// the caller has to submit first.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn gather_blocks(
        &mut self,
        gpu: &Gpu,
        layer: usize,
        blocks: &[u32],
    ) -> Result<Option<Upload>> {
        let Some(slot) = self.ring.take(gpu)? else { return Ok(None) };
        let began = Instant::now();
        let bytes = self.host.format().block_bytes() * blocks.len() as u64;
        let pieces: Vec<&[u8]> = blocks.iter().map(|&b| self.host.layer(b, layer)).collect();
        self.ring.fill(slot, &pieces, &self.gatherers, || ())?;
        self.stats.bytes_up += bytes;
        self.count_time(began, layer, true);
        Ok(Some(Upload { slot, bytes, parts: Vec::new() }))
    }

    /// Blocks that one slot of the ring holds.
    pub fn piece_blocks(&self) -> u32 {
        self.options.piece_blocks(self.host.format()) as u32
    }

    /// Records the copy of an upload to where it arrives; its slot is free again once the submission has finished.
    pub fn record_arrival(&mut self, encoder: &mut wgpu::CommandEncoder, upload: &Upload) {
        let from = self.ring.buffer(upload.slot);
        encoder.copy_buffer_to_buffer(from, 0, self.uploaded(), 0, upload.bytes);
        self.ring.send(upload.slot, upload.bytes, encoder);
    }

    /// Records copies of an upload's blocks, which are f16, each to its buffer and place there.
    pub fn record_copies(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        upload: &Upload,
        places: &[(&wgpu::Buffer, u64)],
    ) {
        self.copy_blocks(encoder, self.ring.buffer(upload.slot), places);
        self.ring.send(upload.slot, upload.bytes, encoder);
    }

    /// Records copies of blocks that have arrived.
    pub fn record_arrived_copies(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        places: &[(&wgpu::Buffer, u64)],
    ) {
        self.copy_blocks(encoder, &self.arrived, places);
    }

    fn copy_blocks(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        from: &wgpu::Buffer,
        places: &[(&wgpu::Buffer, u64)],
    ) {
        for (i, (to, at)) in places.iter().enumerate() {
            let size = self.layer_bytes;
            encoder.copy_buffer_to_buffer(from, i as u64 * size, to, *at, size);
        }
    }

    /// Blocks that a slot for blocks that are written back holds.
    pub fn write_back_blocks(&self) -> usize {
        (self.write_back.slot_bytes() / self.layer_bytes).max(1) as usize
    }

    /// Takes back an upload that nobody records.
    pub fn give_back(&mut self, upload: Upload) {
        self.ring.give_back(upload.slot);
    }

    /// Empties every slot of a head's own.
    pub fn clear_slots(&mut self) {
        for hot in &mut self.hot {
            let residents: Vec<u32> = hot.residents().collect();
            for block in residents {
                hot.forget(block);
            }
        }
    }

    /// A slot for blocks that are written back, or none where the caller has to submit first.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn take_write_back(&mut self, gpu: &Gpu) -> Result<Option<usize>> {
        self.complete(gpu)?;
        loop {
            if let Some(slot) = self.write_back.take(gpu)? {
                return Ok(Some(slot));
            }
            if !self.complete(gpu)? {
                return Ok(None);
            }
        }
    }

    /// Records the copy of blocks to such a slot: for each its buffer, where it is there, its number and its layer.
    pub fn record_write_back(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        slot: usize,
        blocks: &[(&wgpu::Buffer, u64, u32, usize)],
    ) {
        let size = self.layer_bytes;
        let to = self.write_back.buffer(slot);
        for (i, (from, at, _, _)) in blocks.iter().enumerate() {
            encoder.copy_buffer_to_buffer(from, *at, to, i as u64 * size, size);
        }
        self.write_back.send(slot, blocks.len() as u64 * size, encoder);
        self.cargo[slot] = blocks.iter().map(|&(_, _, block, layer)| (block, layer)).collect();
    }

    /// Stores what has left the GPU; whether there was something.
    ///
    /// # Errors
    /// Errors of the device, or [`Error::OutOfMemory`].
    pub fn complete(&mut self, gpu: &Gpu) -> Result<bool> {
        self.write_back.poll(gpu)?;
        let completed = self.write_back.completed();
        for &slot in &completed {
            let cargo = std::mem::take(&mut self.cargo[slot]);
            self.stats.bytes_down += cargo.len() as u64 * self.layer_bytes;
            self.write_back.read(slot, |bytes| self.host.store(&cargo, bytes))?;
        }
        Ok(!completed.is_empty())
    }

    /// Waits until everything that is written back is stored.
    ///
    /// # Errors
    /// As [`Offload::complete`].
    pub fn complete_all(&mut self, gpu: &Gpu) -> Result<()> {
        while self.write_back.is_busy() {
            if !self.complete(gpu)?
                && let Some(oldest) = self.write_back.oldest()
            {
                gpu.wait(oldest)?;
            }
        }
        Ok(())
    }

    /// Takes note of slots of the ring that are free again.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn poll(&mut self, gpu: &Gpu) -> Result<()> {
        self.ring.poll(gpu)
    }

    /// Says which submission what was recorded went with.
    pub fn submitted(&mut self, index: &wgpu::SubmissionIndex) {
        self.ring.submitted(index);
        self.write_back.submitted(index);
    }
}
