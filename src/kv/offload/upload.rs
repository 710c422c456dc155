//! The way of blocks to the GPU: a ring of mapped buffers, and where what they carry arrives.

use super::residents::{Item, Items};
use crate::attention::Shape;
use crate::formats::{HeadFormat, KvType};
use crate::gpu::{Clock, Gpu};
use crate::kernels::NO_SLOT;
use crate::kv::{Gatherers, HostCache, MappedRing, OffloadRows};
use crate::{Error, Result};
use std::sync::Arc;
use web_time::Instant;

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

/// The ring that goes up, and who fills it.
pub struct Uploads {
    ring: MappedRing,
    layers: usize,
    format: HeadFormat,
    /// Bytes of a layer of a block on the GPU.
    layer_bytes: u64,
    /// Whole blocks that a prompt attends, as f16; and as long as those are stored as such, all that arrives.
    arrived: wgpu::Buffer,
    /// The place of blocks that arrive and are not stored as f16.
    packed: Option<wgpu::Buffer>,
    pub(super) threads: Gatherers,
    clock: Option<Arc<Clock>>,
    pub(super) bytes: u64,
    pub(super) hidden_seconds: f64,
    pub(super) exposed_seconds: f64,
}

impl Uploads {
    pub(super) async fn new(
        gpu: &Gpu,
        shape: &Shape,
        layers: u32,
        kv_type: KvType,
        rows: &OffloadRows,
    ) -> Result<Self> {
        Ok(Self {
            ring: MappedRing::new(gpu, &rows.ring).await?,
            layers: layers as usize,
            format: shape.head_format(kv_type),
            layer_bytes: shape.block_bytes(),
            arrived: gpu.allocate(&rows.arrived).await?,
            packed: match &rows.packed {
                None => None,
                Some(packed) => Some(gpu.allocate(packed).await?),
            },
            threads: Gatherers::new()?,
            clock: gpu.clock.clone(),
            bytes: 0,
            hidden_seconds: 0.0,
            exposed_seconds: 0.0,
        })
    }

    /// Where an upload arrives, as it is stored.
    pub fn stored(&self) -> &wgpu::Buffer {
        self.packed.as_ref().unwrap_or(&self.arrived)
    }

    /// Where whole blocks are as f16, once they have arrived and, if they are stored otherwise, are unpacked.
    pub fn arrived(&self) -> &wgpu::Buffer {
        &self.arrived
    }

    /// How often a slot of the ring was waited for.
    pub(super) fn stalls(&self) -> u64 {
        self.ring.stalls
    }

    /// Blocks that one slot of the ring holds.
    pub fn piece_blocks(&self) -> u32 {
        (self.ring.slot_bytes() / self.format.block_bytes()).max(1) as u32
    }

    /// Takes a slot of the ring for as many of `items` as it holds, and takes them out; none where no slot is free now. With
    /// `gpu`, waits for one. It is to be filled before a submission copies from it.
    ///
    /// # Errors
    /// Errors of the device.
    pub async fn load(
        &mut self,
        gpu: Option<&Gpu>,
        items: &mut Vec<Items>,
    ) -> Result<Option<Upload>> {
        if items.is_empty() {
            return Ok(None);
        }
        let slot = match gpu {
            Some(gpu) => self.ring.take(gpu).await?,
            None => self.ring.take_free(),
        };
        let Some(slot) = slot else { return Ok(None) };
        // The header, then part after part: what goes where, and the head-blocks.
        let vecs = 1 + self.format.head_bytes() / 16;
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
                format!("a head-block takes {} bytes", self.format.head_bytes()),
            ));
        }
        let count: usize = parts.iter().map(|(_, part)| part.len()).sum();
        Ok(Some(Upload { slot, bytes: (header + count as u64 * vecs) * 16, parts }))
    }

    /// Gathers an upload's head-blocks into its slot, while the caller does something `beside`. They arrive in the step of
    /// this epoch.
    pub(super) fn fill<T>(
        &mut self,
        host: &HostCache,
        epoch: u32,
        upload: &Upload,
        is_hidden: bool,
        beside: impl FnOnce() -> T,
    ) -> Result<T> {
        let began = Instant::now();
        let size = self.format.head_bytes() as usize;
        let mut at = self.layers as u64;
        let mut header = vec![[0u32; 4]; self.layers];
        let mut lists: Vec<Vec<[u32; 4]>> = Vec::new();
        for (layer, part) in &upload.parts {
            header[*layer] = [at as u32, part.len() as u32, epoch, 0];
            at += part.len() as u64 * (1 + self.format.head_bytes() / 16);
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
                let layer = host.layer(item.placement.block, *layer);
                pieces.push(&layer[item.head as usize * size..][..size]);
            }
        }
        let made = self.ring.fill(upload.slot, &pieces, &self.threads, beside)?;
        self.count(upload.bytes, began, upload.first_layer(), is_hidden);
        Ok(made)
    }

    /// Gathers one layer of consecutive blocks, whole, into a slot of the ring; none where the caller has to submit first.
    pub(super) async fn gather(
        &mut self,
        gpu: &Gpu,
        host: &HostCache,
        layer: usize,
        blocks: &[u32],
    ) -> Result<Option<Upload>> {
        let Some(slot) = self.ring.take(gpu).await? else { return Ok(None) };
        let began = Instant::now();
        let bytes = self.format.block_bytes() * blocks.len() as u64;
        let pieces: Vec<&[u8]> = blocks.iter().map(|&b| host.layer(b, layer)).collect();
        self.ring.fill(slot, &pieces, &self.threads, || ())?;
        self.count(bytes, began, layer, true);
        Ok(Some(Upload { slot, bytes, parts: Vec::new() }))
    }

    /// Announces work for threads, within microseconds.
    pub fn stand_by(&self) {
        self.threads.stand_by();
    }

    fn count(&mut self, bytes: u64, began: Instant, layer: usize, is_hidden: bool) {
        self.bytes += bytes;
        if let Some(clock) = &self.clock {
            clock.note("gather", layer, began);
        }
        let seconds = if is_hidden { &mut self.hidden_seconds } else { &mut self.exposed_seconds };
        *seconds += began.elapsed().as_secs_f64();
    }

    /// Records the copy of an upload to where it arrives; its slot is free again once the submission has finished.
    pub fn record_arrival(&mut self, encoder: &mut wgpu::CommandEncoder, upload: &Upload) {
        let from = self.ring.buffer(upload.slot);
        encoder.copy_buffer_to_buffer(from, 0, self.stored(), 0, upload.bytes);
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

    /// Takes back an upload that nobody records.
    pub fn give_back(&mut self, upload: Upload) {
        self.ring.give_back(upload.slot);
    }

    /// Takes note of slots of the ring that are free again.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn poll(&mut self, gpu: &Gpu) -> Result<()> {
        self.ring.poll(gpu)
    }

    pub(super) fn submitted(&mut self, index: &wgpu::SubmissionIndex) {
        self.ring.submitted(index);
    }
}
