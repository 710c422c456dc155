//! A chunk of a prompt: its own keys and values in one buffer that all layers use in turn; what came before streams from
//! the host, piece after piece, through the ring. The GPU never holds more of it than a piece.

use super::HotTurn;
use crate::engine::forward::{GoesOn, Over, Pieces};
use crate::engine::layer::{Layer, Stage};
use crate::engine::ops::{HotOps, HotPrefill};
use crate::engine::record::{Mode, Plan};
use crate::engine::{Output, Session, Want};
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

impl HotTurn<'_> {
    pub(super) async fn prefill_chunk(
        &mut self,
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
        let block = self.engine.shape.block;
        let (position, end) = (session.len(), session.len() + tokens.len() as u32);
        let first = position / block;
        let is_open = !position.is_multiple_of(block);
        if is_open {
            self.bring_window(&[(&**session, position)]).await?;
        }
        self.state.offload.complete_all(&self.engine.gpu).await?;
        let plan = self.engine.plan(batch, Mode::Prefill, want, Over::Chunk);
        let own = &self.hot.buffers;
        let over_chunk = plan.step.over_slabs();
        self.engine.gpu.write(&own.tables, 0, bytemuck::cast_slice(&over_chunk));
        let blocks = (end - 1) / block - first + 1;
        let segment = SegmentParams::in_order(first, blocks, 0, 2);
        self.engine.gpu.write(&own.chunk_segment, 0, bytemuck::bytes_of(&segment));
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
                window.push((logical, self.admit(physical, &needed).await?));
            }
        }
        let chunk = Chunk { table, first, is_open, sealed: end / block, window };
        let mut encoder = self.engine.gpu.device.create_command_encoder(&Default::default());
        let layers_at_once = self.engine.layers_at_once(&plan.step);
        let mut pieces = Pieces::new(&self.engine.gpu, goes_on);
        for (number, layer) in self.ops.layers.iter().enumerate() {
            let index = self.chunk_layer(&mut encoder, &chunk, &plan, (number, layer)).await?;
            let done = number + 1;
            let is_piece = done % layers_at_once == 0 && done < self.ops.layers.len();
            if is_piece && !pieces.follow(index).await? {
                return Ok(None);
            }
        }
        if want != Want::Nothing {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            self.engine.runner.record_logits(&mut pass, &plan.step);
        }
        let output = self.engine.runner.finish(encoder, &plan.step).await?;
        self.state.offload.complete_all(&self.engine.gpu).await?;
        Ok(Some(output))
    }

    async fn chunk_layer(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        chunk: &Chunk<'_>,
        plan: &Plan<'_>,
        (number, layer): (usize, &Layer<HotOps>),
    ) -> Result<wgpu::SubmissionIndex> {
        let own = &self.hot.buffers;
        let bytes = self.engine.shape.block_bytes();
        if chunk.is_open {
            let open = chunk.table[chunk.first as usize];
            let slot = self.window_slot(open)?;
            let (from, at) = self.hot.cache.place(number, slot);
            encoder.copy_buffer_to_buffer(from, at, &own.chunk, 0, bytes);
        }
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            if number == 0 {
                self.engine.runner.record_embedding(&mut pass, &plan.step);
            }
            layer.record(&mut pass, plan, ..=Stage::Attend);
        }
        match &layer.kv.prefill {
            HotPrefill::Grouped(pieces) => {
                let piece = self.state.offload.uploads.piece_blocks();
                let mut at = 0;
                while at < chunk.first {
                    let blocks = piece.min(chunk.first - at);
                    // Behind the chunk's own states.
                    let segment = SegmentParams::in_order(at, blocks, 1, 2);
                    self.bring_piece(encoder, chunk, number, segment).await?;
                    let mut pass = encoder.begin_compute_pass(&Default::default());
                    layer.attend_piece(&mut pass, plan, pieces);
                    at += blocks;
                }
            }
            HotPrefill::Latent(slabs, gather) => {
                let slab_blocks = slabs.tokens() / self.engine.shape.block;
                for slab in 0..plan.step.context.div_ceil(slabs.tokens()) {
                    let first = slab * slab_blocks;
                    let came_before = chunk.first.saturating_sub(first).min(slab_blocks);
                    let parts = (came_before > 0, came_before < slab_blocks);
                    if parts.0 {
                        let segment = SegmentParams::in_order(first, came_before, 0, 2);
                        self.bring_piece(encoder, chunk, number, segment).await?;
                    }
                    let mut pass = encoder.begin_compute_pass(&Default::default());
                    gather.attend(&mut pass, slabs, slab as usize, parts, plan.step.prompt_tiles);
                }
            }
        }
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            layer.record(&mut pass, plan, Stage::Merge..);
        }
        for &(logical, slot) in &chunk.window {
            let (to, at) = self.hot.cache.place(number, slot);
            let from = u64::from(logical - chunk.first) * bytes;
            encoder.copy_buffer_to_buffer(&own.chunk, from, to, at, bytes);
        }
        let write_back: Vec<_> = (chunk.first..chunk.sealed)
            .map(|logical| {
                let at = u64::from(logical - chunk.first) * bytes;
                (&own.chunk, at, chunk.table[logical as usize], number)
            })
            .collect();
        self.record_write_back(encoder, &write_back).await?;
        // A prompt chooses nothing, so no choice is on its way.
        self.submit_uploads(encoder)
    }

    // Brings the blocks of a segment to where what arrives is attended: what was recorded before goes first.
    async fn bring_piece(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        chunk: &Chunk<'_>,
        layer: usize,
        segment: SegmentParams,
    ) -> Result<()> {
        let own = &self.hot.buffers;
        self.submit(encoder)?;
        self.engine.gpu.write(&own.arrived_segment, 0, bytemuck::bytes_of(&segment));
        let blocks = &chunk.table[segment.first as usize..][..segment.blocks as usize];
        let upload = self.state.offload.gather_blocks(&self.engine.gpu, layer, blocks).await?;
        let none = || Error::Gpu("every slot of the ring is in use".into());
        self.record_whole(encoder, &upload.ok_or_else(none)?, blocks.len());
        Ok(())
    }

    /// Records the copies of blocks that are written back, as many slots as they need.
    pub(super) async fn record_write_back(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        blocks: &[(&wgpu::Buffer, u64, u32, usize)],
    ) -> Result<()> {
        for blocks in blocks.chunks(self.state.offload.write_back.blocks()) {
            let slot = loop {
                match self.state.offload.take_write_back(&self.engine.gpu).await? {
                    Some(slot) => break slot,
                    None => self.submit(encoder)?,
                }
            };
            self.state.offload.write_back.record(encoder, slot, blocks);
        }
        Ok(())
    }

    /// Builds the index of blocks that the host holds, by step words that name them: those from which block on.
    pub(in crate::engine) async fn build_index(
        &mut self,
        blocks: &[u32],
        sealing: impl Fn(usize, &[u32]) -> Vec<u32> + Send + Sync,
    ) -> Result<()> {
        self.state.offload.complete_all(&self.engine.gpu).await?;
        let own = &self.hot.buffers;
        let mut encoder = self.engine.gpu.device.create_command_encoder(&Default::default());
        let mut first = 0;
        for piece in blocks.chunks(self.state.offload.uploads.piece_blocks() as usize) {
            self.submit(&mut encoder)?;
            self.engine.gpu.write(
                &self.engine.runner.scratch().step,
                0,
                bytemuck::cast_slice(&sealing(first, piece)),
            );
            let segment = SegmentParams::in_order(first as u32, piece.len() as u32, 0, 1);
            self.engine.gpu.write(&own.arrived_segment, 0, bytemuck::bytes_of(&segment));
            for (number, layer) in self.ops.layers.iter().enumerate() {
                let upload = loop {
                    match self.state.offload.gather_blocks(&self.engine.gpu, number, piece).await? {
                        Some(upload) => break upload,
                        None => self.submit(&mut encoder)?,
                    }
                };
                self.record_whole(&mut encoder, &upload, piece.len());
                let mut pass = encoder.begin_compute_pass(&Default::default());
                if let Some(index) = &layer.kv.index {
                    let sealing = std::slice::from_ref(&index.arrived_sealing);
                    layer.seal(&mut pass, sealing, piece.len() as u32);
                }
            }
            first += piece.len();
        }
        self.submit(&mut encoder)
    }
}
