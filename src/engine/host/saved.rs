//! Sessions in files: blocks that come from one are the host's, and the window and the hot cache take them from there.

use super::HotTurn;
use crate::Result;
use crate::kv::KvCache;
use std::collections::HashMap;

impl<'e> HotTurn<'e> {
    /// The window and the hot cache.
    pub(in crate::engine) fn cache(&self) -> &'e KvCache {
        &self.hot.cache
    }

    /// Whether the host holds a block, which then need not be on the GPU.
    pub(in crate::engine) fn host_holds(&self, block: u32) -> bool {
        self.state.offload.host.holds(block)
    }

    /// Keys and values of a block that the host holds, as f16, layer after layer.
    pub(in crate::engine) fn read_from_host(&self, block: u32, halves: &mut [u8]) {
        self.state.offload.host.read(block, halves);
    }

    /// Gives the host a block.
    pub(in crate::engine) fn write_to_host(&mut self, block: u32, halves: &[u8]) -> Result<()> {
        let layers: Vec<_> = (0..self.ops.layers.len()).map(|layer| (block, layer)).collect();
        self.state.offload.host.store(&layers, halves)
    }

    /// Gives the host blocks, of which each has its keys and values as f16, layer after layer.
    pub(in crate::engine) fn write_all_to_host(
        &mut self,
        blocks: &[u32],
        halves: &[&[u8]],
    ) -> Result<()> {
        let places: HashMap<u32, &[u8]> =
            blocks.iter().copied().zip(halves.iter().copied()).collect();
        let bytes = self.engine.shape.block_bytes() as usize;
        let layer = |block: u32, layer: usize| &places[&block][layer * bytes..][..bytes];
        self.state.offload.host.store_all(blocks, layer)
    }

    /// Waits until the host holds everything that is written back.
    pub(in crate::engine) async fn complete(&mut self) -> Result<()> {
        self.state.offload.complete_all(&self.engine.gpu).await
    }

    /// Makes blocks of the pool a new session's: whatever their numbers stood for is forgotten.
    pub(in crate::engine) async fn take_blocks(&mut self, blocks: &[u32]) -> Result<()> {
        self.state.unfinished = Some(blocks.to_vec());
        // What is still on its way to the host under one of these numbers is not of this session.
        self.state.offload.complete_all(&self.engine.gpu).await?;
        for &block in blocks {
            self.state.is_stale |= self.state.offload.forget(block);
        }
        self.settle_slots().await?;
        // Another session may have had the slot, and ended where this one goes on.
        self.state.lag = None;
        self.state.unfinished = None;
        Ok(())
    }
}
