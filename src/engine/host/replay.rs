//! Replays over a hot cache.

use super::{Hot, HotTurn};
use crate::Result;
use crate::engine::Session;
use crate::engine::cache::BlockLists;
use crate::gpu::Gpu;
use crate::kv::FetchRule;

impl Hot {
    /// Goes by the rule as it is changed here from now on, and begins with nothing in the hot cache.
    pub(in crate::engine) async fn begin_with(&self, gpu: &Gpu, rule: impl FnOnce(&mut FetchRule)) {
        let state = &mut *self.kv.state.lock().await;
        rule(&mut state.offload.rule);
        // A device that cannot do this will not do a step either.
        let _ = state.take_back(gpu).await;
    }

    /// Where the blocks are listed that a step attends.
    pub(in crate::engine) fn steered(&self) -> &BlockLists {
        &self.kv.buffers.wanted
    }
}

impl HotTurn<'_> {
    /// Leaves nothing on the GPU that the CPU holds too, or nobody needs, and forgets what was wanted: what comes does not depend
    /// on what was.
    pub(in crate::engine) async fn unload(&mut self) -> Result<()> {
        let engine = self.engine;
        let offload = &mut self.state.offload;
        offload.complete_all(&engine.gpu).await?;
        let host = &offload.host;
        offload.window.keep(|block| engine.cache.pool().is_held(block) && !host.holds(block));
        offload.residents.restart();
        Ok(())
    }

    /// Stores these blocks, which were free, as if a prompt had sealed them.
    pub(in crate::engine) fn pretend<'b>(
        &mut self,
        blocks: &[u32],
        layer: impl Fn(u32, usize) -> &'b [u8] + Sync,
    ) -> Result<()> {
        let state = &mut *self.state;
        for &block in blocks {
            state.is_stale |= state.offload.forget(block);
        }
        state.offload.host.store_all(blocks, layer)
    }

    /// Logical blocks of a session that each KV head of a layer finds in the hot cache.
    pub(in crate::engine) fn resident_blocks(
        &self,
        session: &Session,
        layer: usize,
    ) -> Vec<Vec<u32>> {
        let residents = &self.state.offload.residents;
        let of_head = |head| {
            let logical = (0..).zip(session.table.blocks());
            let here = logical.filter(|(_, block)| residents.is_resident(layer, head, **block));
            here.map(|(logical, _)| logical).collect()
        };
        (0..self.engine.shape.kv_heads).map(of_head).collect()
    }
}
