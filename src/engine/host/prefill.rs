//! A chunk of a prompt: its own keys and values in one buffer that all layers use in turn; what came before streams from
//! the host, piece after piece, through the ring. The GPU never holds more of it than a piece.

use super::Host;
use crate::engine::forward::{GoesOn, Over, Pieces};
use crate::engine::layer::{Layer, Stage};
use crate::engine::ops::AttentionOps;
use crate::engine::record::{Mode, Plan};
use crate::engine::{Engine, Output, Session, Want};
use crate::kernels::SegmentParams;
use crate::{Error, Result};

// The blocks of a chunk, by logical number.
struct Chunk<'a> {
    table: &'a [u32],
    /// The block of the first token.
    first: u32,
    /// Whether that block has tokens already.
    is_open: bool,
    /// Blocks that are sealed once the chunk is done.
    sealed: u32,
    /// Blocks that the window holds then, and their slots.
    window: Vec<(u32, u32)>,
}

impl Engine {
    pub(super) async fn prefill_chunk(
        &self,
        host: &mut Host,
        batch: &[(&mut Session, &[u32])],
        want: Want,
        goes_on: GoesOn<'_>,
    ) -> Result<Option<Output>> {
        let [(session, tokens)] = batch else {
            return Err(Error::argument(
                "a step over prompts",
                format!("{} sessions", batch.len()),
                "one prompt at a time",
            ));
        };
        let block = self.shape.block;
        let (position, end) = (session.len(), session.len() + tokens.len() as u32);
        let first = position / block;
        let is_open = !position.is_multiple_of(block);
        if is_open {
            self.bring_window(host, &[(&**session, position)])?;
        }
        host.offload.complete_all(&self.gpu)?;
        let plan = self.plan(batch, Mode::Prefill, want, Over::Chunk);
        let own = self.scratch.host.as_ref().ok_or_else(Self::no_host_ops)?;
        let over_chunk = plan.step.over_slabs();
        self.gpu.write(&own.tables, 0, bytemuck::cast_slice(&over_chunk));
        let blocks = (end - 1) / block - first + 1;
        let segment = SegmentParams::in_order(first, blocks, 0, 2);
        self.gpu.write(&own.chunk_segment, 0, bytemuck::bytes_of(&segment));
        // The open block has a slot already, where there is one; the window after the chunk takes the others.
        let table = session.table.blocks();
        let needed: Vec<(u32, bool)> = self
            .window_blocks(end)
            .into_iter()
            .filter_map(|logical| Some((*table.get(logical as usize)?, true)))
            .chain(is_open.then(|| (table[first as usize], true)))
            .collect();
        let mut window = Vec::new();
        for logical in self.window_blocks(end).into_iter().filter(|&b| b >= first) {
            if let Some(&physical) = table.get(logical as usize) {
                window.push((logical, self.admit(host, physical, &needed)?));
            }
        }
        let chunk = Chunk { table, first, is_open, sealed: end / block, window };
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        let layers_at_once = self.layers_at_once(&plan.step);
        let mut pieces = Pieces::new(&self.gpu, goes_on);
        for (number, layer) in self.layers.iter().enumerate() {
            let index = self.chunk_layer(host, &mut encoder, &chunk, &plan, (number, layer))?;
            let done = number + 1;
            let is_piece = done % layers_at_once == 0 && done < self.layers.len();
            if is_piece && !pieces.follow(index)? {
                return Ok(None);
            }
        }
        if want != Want::Nothing {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            self.record_logits(&mut pass, &plan.step);
        }
        let output = self.finish(encoder, &plan.step).await?;
        host.offload.complete_all(&self.gpu)?;
        Ok(Some(output))
    }

    fn chunk_layer(
        &self,
        host: &mut Host,
        encoder: &mut wgpu::CommandEncoder,
        chunk: &Chunk<'_>,
        plan: &Plan<'_>,
        (number, layer): (usize, &Layer),
    ) -> Result<wgpu::SubmissionIndex> {
        let own = self.scratch.host.as_ref().ok_or_else(Self::no_host_ops)?;
        let bytes = self.shape.block_bytes();
        if chunk.is_open {
            let open = chunk.table[chunk.first as usize];
            let slot = host.offload.window.slot(open).ok_or_else(Self::no_host_ops)?;
            let (from, at) = self.cache_place(number, slot);
            encoder.copy_buffer_to_buffer(from, at, &own.chunk, 0, bytes);
        }
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            if number == 0 {
                self.record_embedding(&mut pass, &plan.step);
            }
            layer.record(&mut pass, plan, ..=Stage::Attend);
        }
        match &layer.attention {
            AttentionOps::Grouped(_) => {
                let piece = host.offload.piece_blocks();
                let mut at = 0;
                while at < chunk.first {
                    let blocks = piece.min(chunk.first - at);
                    // Behind the chunk's own states.
                    let segment = SegmentParams::in_order(at, blocks, 1, 2);
                    self.bring_piece(host, encoder, chunk, number, segment)?;
                    let mut pass = encoder.begin_compute_pass(&Default::default());
                    layer.attend_piece(&mut pass, plan);
                    at += blocks;
                }
            }
            AttentionOps::Latent(latent) => {
                let slab_blocks = latent.slab_tokens() / self.shape.block;
                let slabs = plan.step.context.div_ceil(latent.slab_tokens());
                for slab in 0..slabs {
                    let first = slab * slab_blocks;
                    let came_before = chunk.first.saturating_sub(first).min(slab_blocks);
                    let parts = (came_before > 0, came_before < slab_blocks);
                    if parts.0 {
                        let segment = SegmentParams::in_order(first, came_before, 0, 2);
                        self.bring_piece(host, encoder, chunk, number, segment)?;
                    }
                    let mut pass = encoder.begin_compute_pass(&Default::default());
                    layer.attend_slab(&mut pass, plan, slab as usize, parts);
                }
            }
        }
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            layer.record(&mut pass, plan, Stage::Merge..);
        }
        for &(logical, slot) in &chunk.window {
            let (to, at) = self.cache_place(number, slot);
            let from = u64::from(logical - chunk.first) * bytes;
            encoder.copy_buffer_to_buffer(&own.chunk, from, to, at, bytes);
        }
        let write_back: Vec<_> = (chunk.first..chunk.sealed)
            .map(|logical| {
                let at = u64::from(logical - chunk.first) * bytes;
                (&own.chunk, at, chunk.table[logical as usize], number)
            })
            .collect();
        self.record_write_back(host, encoder, &write_back)?;
        // A prompt chooses nothing, so no choice is on its way.
        self.submit_uploads(host, encoder)
    }

    // Brings the blocks of a segment to where what arrives is attended: what was recorded before goes first.
    fn bring_piece(
        &self,
        host: &mut Host,
        encoder: &mut wgpu::CommandEncoder,
        chunk: &Chunk<'_>,
        layer: usize,
        segment: SegmentParams,
    ) -> Result<()> {
        let own = self.scratch.host.as_ref().ok_or_else(Self::no_host_ops)?;
        self.submit_host(host, encoder)?;
        self.gpu.write(&own.arrived_segment, 0, bytemuck::bytes_of(&segment));
        let blocks = &chunk.table[segment.first as usize..][..segment.blocks as usize];
        let upload = host.offload.gather_blocks(&self.gpu, layer, blocks)?;
        let none = || Error::Gpu("every slot of the ring is in use".into());
        self.record_whole(host, encoder, &upload.ok_or_else(none)?, blocks.len());
        Ok(())
    }

    /// Records the copies of blocks that are written back, as many slots as they need.
    pub(super) fn record_write_back(
        &self,
        host: &mut Host,
        encoder: &mut wgpu::CommandEncoder,
        blocks: &[(&wgpu::Buffer, u64, u32, usize)],
    ) -> Result<()> {
        for blocks in blocks.chunks(host.offload.write_back_blocks()) {
            let slot = loop {
                match host.offload.take_write_back(&self.gpu)? {
                    Some(slot) => break slot,
                    None => self.submit_host(host, encoder)?,
                }
            };
            host.offload.record_write_back(encoder, slot, blocks);
        }
        Ok(())
    }

    /// Builds the index of a session's first `sealed` blocks, which the host holds, by step words that name them.
    pub(in crate::engine) async fn index_from_host(
        &self,
        blocks: &[u32],
        sealing: impl Fn(usize, &[u32]) -> Vec<u32>,
    ) -> Result<()> {
        let Some(host) = &self.host else { return Ok(()) };
        let host = &mut *host.lock().await;
        host.offload.complete_all(&self.gpu)?;
        let own = self.scratch.host.as_ref().ok_or_else(Self::no_host_ops)?;
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        let mut first = 0;
        for piece in blocks.chunks(host.offload.piece_blocks() as usize) {
            self.submit_host(host, &mut encoder)?;
            self.gpu.write(&self.scratch.step, 0, bytemuck::cast_slice(&sealing(first, piece)));
            let segment = SegmentParams::in_order(first as u32, piece.len() as u32, 0, 1);
            self.gpu.write(&own.arrived_segment, 0, bytemuck::bytes_of(&segment));
            for (number, layer) in self.layers.iter().enumerate() {
                let upload = loop {
                    match host.offload.gather_blocks(&self.gpu, number, piece)? {
                        Some(upload) => break upload,
                        None => self.submit_host(host, &mut encoder)?,
                    }
                };
                self.record_whole(host, &mut encoder, &upload, piece.len());
                let mut pass = encoder.begin_compute_pass(&Default::default());
                if let Some(ops) = &layer.host {
                    layer.seal(&mut pass, ops.arrived_sealing.as_slice(), piece.len() as u32);
                }
            }
            first += piece.len();
        }
        self.submit_host(host, &mut encoder)
    }
}
