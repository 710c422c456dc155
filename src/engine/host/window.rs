//! The window of the hot cache: which blocks of a session it holds, and how they come back to it.

use super::Host;
use crate::engine::{Engine, Session};
use crate::{Error, Result};

impl Engine {
    /// Logical blocks that a step at `position` always attends or writes to.
    pub(super) fn window_blocks(&self, position: u32) -> Vec<u32> {
        let Some(host) = &self.options.host else { return Vec::new() };
        let open = position / self.shape.block;
        let recent_first = open - open.min(host.recent_blocks);
        (0..host.sink_blocks.min(recent_first)).chain(recent_first..=open).collect()
    }

    /// Makes sure that the windows of these sessions, each at its position, lie on the GPU; what a session writes to is no
    /// longer what the host holds of it.
    pub(super) fn bring_window(&self, host: &mut Host, sessions: &[(&Session, u32)]) -> Result<()> {
        let block = self.shape.block;
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
            if host.offload.window.slot(physical).is_some() {
                continue;
            }
            self.admit(host, physical, &needed)?;
            if is_written {
                missing.push(physical);
            }
        }
        self.load_window(host, &missing)?;
        for (session, position) in sessions {
            let open = session.table.blocks().get((position / block) as usize);
            if let Some(&open) = open.filter(|_| position % block != 0) {
                host.is_stale |= host.offload.reopen(open);
            }
        }
        self.settle_slots(host)
    }

    // A slot of the window for a block, that of one that nobody needs now.
    pub(super) fn admit(
        &self,
        host: &mut Host,
        physical: u32,
        needed: &[(u32, bool)],
    ) -> Result<u32> {
        for is_last in [false, true] {
            let held = &host.offload.host;
            let is_written_back =
                |block: u32| held.holds(block) && needed.iter().all(|&(b, _)| b != block);
            if let Some(slot) = host.offload.window.admit(physical, is_written_back) {
                return Ok(slot);
            }
            if !is_last {
                // A block may be replaced once the host holds it.
                host.offload.complete_all(&self.gpu)?;
            }
        }
        Err(Error::argument(
            "the window of the hot cache",
            "full",
            "every session keeps its first, its latest and its open block there",
        ))
    }

    // Copies blocks that the host holds into their slots of the window.
    fn load_window(&self, host: &mut Host, blocks: &[u32]) -> Result<()> {
        if blocks.is_empty() {
            return Ok(());
        }
        host.offload.complete_all(&self.gpu)?;
        if let Some(lost) = blocks.iter().find(|&&block| !host.offload.host.holds(block)) {
            return Err(Error::Gpu(format!(
                "block {lost} is neither on the GPU nor with the host"
            )));
        }
        let bytes = self.shape.block_bytes();
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        for layer in 0..self.layers.len() {
            for blocks in blocks.chunks(host.offload.uploads.piece_blocks() as usize) {
                let upload = loop {
                    match host.offload.gather_blocks(&self.gpu, layer, blocks)? {
                        Some(upload) => break upload,
                        None => self.submit_host(host, &mut encoder)?,
                    }
                };
                let mut places = Vec::new();
                for &block in blocks {
                    let slot = host.offload.window.slot(block).ok_or_else(Self::no_host_ops)?;
                    let (segment, place) = self.layout.place(slot);
                    let buffer = &self.caches[layer].kv[segment as usize];
                    places.push((buffer, u64::from(place) * bytes));
                }
                if host.ops.unpack.is_none() {
                    host.offload.uploads.record_copies(&mut encoder, &upload, &places);
                } else {
                    self.record_whole(host, &mut encoder, &upload, blocks.len());
                    host.offload.uploads.record_arrived_copies(&mut encoder, &places);
                }
            }
        }
        self.submit_host(host, &mut encoder)
    }

    /// Where a slot of the cache is in a layer: of the window, or of the whole cache.
    pub(in crate::engine) fn cache_place(&self, layer: usize, slot: u32) -> (&wgpu::Buffer, u64) {
        let (segment, place) = self.layout.place(slot);
        let at = u64::from(place) * self.shape.block_bytes();
        (&self.caches[layer].kv[segment as usize], at)
    }

    // The open block `old` of a fork, copied to `new`, which is written to from now on.
    pub(super) fn copy_open_block(
        &self,
        host: &mut Host,
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
        if host.offload.window.slot(old).is_none() {
            self.admit(host, old, &needed)?;
            self.load_window(host, &[old])?;
        }
        let to = self.admit(host, new, &needed)?;
        let from = host.offload.window.slot(old).ok_or_else(Self::no_host_ops)?;
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        for cache in &self.caches {
            let bytes = self.shape.block_bytes();
            let moving = &self.scratch.moving;
            cache.copy_block(&mut encoder, &self.layout, moving, bytes, (from, to));
        }
        self.submit_host(host, &mut encoder)
    }
}
