//! A session that comes from a file: its blocks are the host's, and the window and the hot cache take them from there.

use super::Host;
use crate::Result;
use crate::engine::Engine;

impl Engine {
    /// Makes blocks of the pool a new session's: whatever their numbers stood for is forgotten.
    pub(in crate::engine) fn take_blocks(&self, host: &mut Host, blocks: &[u32]) -> Result<()> {
        // What is still on its way to the host under one of these numbers is not of this session.
        host.offload.complete_all(&self.gpu)?;
        for &block in blocks {
            host.is_stale |= host.offload.forget(block);
        }
        self.settle_slots(host)?;
        // Another session may have had the slot, and ended where this one goes on.
        host.lag = None;
        Ok(())
    }
}
