//! The window of the hot cache: which blocks of a session it holds, and how they come back to it.

use super::HotTurn;
use crate::engine::Session;
use crate::{Error, Result};

impl HotTurn<'_> {
    /// Logical blocks that a step at `position` always attends or writes to.
    pub(super) fn window_blocks(&self, position: u32) -> Vec<u32> {
        let options = &self.hot.options;
        let open = position / self.engine.shape.block;
        let recent_first = open - open.min(options.recent_blocks);
        (0..options.sink_blocks.min(recent_first)).chain(recent_first..=open).collect()
    }

    /// Makes sure that the windows of these sessions, each at its position, lie on the GPU; what a session writes to is no
    /// longer what the host holds of it.
    pub(super) async fn bring_window(&mut self, sessions: &[(&Session, u32)]) -> Result<()> {
        let block = self.engine.shape.block;
        let needed: Vec<(u32, bool)> = sessions
            .iter()
            .flat_map(|(session, position)| {
                let is_written = |logical: u32| logical * block < *position;
                self.window_blocks(*position)
                    .into_iter()
                    .filter_map(move |logical| {
                        let physical = *session.table.blocks().get(logical as usize)?;
                        Some((physical, is_written(logical)))
                    })
                    .collect::<Vec<_>>()
            })
            .collect();
        let mut missing = Vec::new();
        for &(physical, is_written) in &needed {
            if self.state.offload.window.slot(physical).is_some() {
                continue;
            }
            self.admit(physical, &needed).await?;
            if is_written {
                missing.push(physical);
            }
        }
        self.load_window(&missing).await?;
        for (session, position) in sessions {
            let open = session.table.blocks().get((position / block) as usize);
            if let Some(&open) = open.filter(|_| position % block != 0) {
                self.state.is_stale |= self.state.offload.reopen(open);
            }
        }
        self.settle_slots().await
    }

    // A slot of the window for a block, that of one that nobody needs now.
    pub(super) async fn admit(&mut self, physical: u32, needed: &[(u32, bool)]) -> Result<u32> {
        for is_last in [false, true] {
            let offload = &mut self.state.offload;
            let held = &offload.host;
            let is_written_back =
                |block: u32| held.holds(block) && needed.iter().all(|&(b, _)| b != block);
            if let Some(slot) = offload.window.admit(physical, is_written_back) {
                return Ok(slot);
            }
            if !is_last {
                // A block may be replaced once the host holds it.
                self.state.offload.complete_all(&self.engine.gpu).await?;
            }
        }
        Err(Error::argument(
            "the window of the hot cache",
            "full",
            "every session keeps its first, its latest and its open block there",
        ))
    }

    // Copies blocks that the host holds into their slots of the window.
    async fn load_window(&mut self, blocks: &[u32]) -> Result<()> {
        if blocks.is_empty() {
            return Ok(());
        }
        self.state.offload.complete_all(&self.engine.gpu).await?;
        if let Some(lost) = blocks.iter().find(|&&block| !self.state.offload.host.holds(block)) {
            return Err(Error::Gpu(format!(
                "block {lost} is neither on the GPU nor with the host"
            )));
        }
        let mut encoder = self.engine.gpu.device.create_command_encoder(&Default::default());
        for layer in 0..self.ops.layers.len() {
            for blocks in blocks.chunks(self.state.offload.uploads.piece_blocks() as usize) {
                let upload = loop {
                    match self.state.offload.gather_blocks(&self.engine.gpu, layer, blocks).await? {
                        Some(upload) => break upload,
                        None => self.submit(&mut encoder)?,
                    }
                };
                let mut places = Vec::new();
                for &block in blocks {
                    places.push(self.hot.cache.place(layer, self.window_slot(block)?));
                }
                if self.ops.unpack.is_none() {
                    self.state.offload.uploads.record_copies(&mut encoder, &upload, &places);
                } else {
                    self.record_whole(&mut encoder, &upload, blocks.len());
                    self.state.offload.uploads.record_arrived_copies(&mut encoder, &places);
                }
            }
        }
        self.submit(&mut encoder)
    }

    /// Where a block of the window is.
    pub(in crate::engine) fn window_slot(&self, block: u32) -> Result<u32> {
        let none = || Error::Gpu(format!("block {block} is neither on the GPU nor with the host"));
        self.state.offload.window.slot(block).ok_or_else(none)
    }

    // The open block `old` of a fork, copied to `new`, which is written to from now on.
    pub(super) async fn copy_open_block(
        &mut self,
        batch: &[(&mut Session, &[u32])],
        old: u32,
        new: u32,
    ) -> Result<()> {
        let mut needed = vec![(old, true), (new, false)];
        for (session, _) in batch {
            let blocks = self.window_blocks(session.len()).into_iter();
            needed.extend(
                blocks.filter_map(|b| Some((*session.table.blocks().get(b as usize)?, true))),
            );
        }
        if self.state.offload.window.slot(old).is_none() {
            self.admit(old, &needed).await?;
            self.load_window(&[old]).await?;
        }
        let to = self.admit(new, &needed).await?;
        let from = self.window_slot(old)?;
        let mut encoder = self.engine.gpu.device.create_command_encoder(&Default::default());
        self.hot.cache.copy_block(&mut encoder, &self.engine.runner.scratch().moving, (from, to));
        self.submit(&mut encoder)
    }
}
