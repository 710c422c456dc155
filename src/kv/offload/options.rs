//! How a cache in CPU memory is set up.

use crate::attention::{MostMissed, Timing};
use crate::formats::{HeadFormat, KvType};
use crate::kernels::HotSlots;
use crate::kv::memory::slot_bytes;
use serde::Serialize;

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
    /// How much of its attention a step of the `lagged` or `resident` rule may miss that is not done again.
    pub most_missed: MostMissed,
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
        // Large enough for the link, small beside the cache that is saved: 32 MiB from 6 GiB on. And so large that what many
        // sequences choose anew for six layers of 36 fits: of a sixth of the cache a twelfth is chosen, and one block in 25 new.
        let of_many = (whole / 1536).min(64 << 20);
        let ring_bytes = (whole / 192).clamp(256 << 10, 32 << 20).max(of_many).max(2 * block_bytes);
        Self {
            hot_blocks,
            sink_blocks: 1,
            recent_blocks: 4,
            ring_bytes,
            ring_slots: if whole < 1 << 30 { 3 } else { 6 },
            kv_type: KvType::F16,
            timing: Timing::Exact,
            most_missed: MostMissed::default(),
            patience: 1,
            most_fetched: u64::MAX,
            overlaps: true,
        }
    }

    /// Whole blocks of one layer that a slot of the ring holds, stored like this.
    pub(crate) fn piece_blocks(&self, format: &HeadFormat) -> u64 {
        (slot_bytes(self.ring_bytes) / format.block_bytes()).max(1)
    }

    /// Slots of the window: the blocks that always stay, and the open one, of every session.
    pub(crate) fn window_blocks(&self, sessions: u32) -> u32 {
        // And one while a prompt goes on in a block that will not be in the window.
        let kept = self.sink_blocks.saturating_add(self.recent_blocks).saturating_add(1);
        sessions.saturating_mul(kept).saturating_add(1)
    }

    /// The slots of a hot cache over so many physical blocks: the window's, and those of chosen blocks.
    pub(crate) fn slots(&self, pool_blocks: u32, sessions: u32) -> HotSlots {
        HotSlots {
            pool_blocks,
            slots: self.window_blocks(sessions).saturating_add(self.hot_blocks),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_of_the_ring_holds_what_is_new_for_a_group_of_layers() {
        let slot = |whole: u64| HostOptions::new(8, whole, 4096).ring_bytes;
        assert_eq!(
            (slot(0), slot(1 << 20), slot(3 << 30)),
            (256 << 10, 256 << 10, (3 << 30) / 192)
        );
        for gib in [6, 14, 48, 72, 96] {
            let whole = gib << 30;
            assert!(slot(whole) >= (whole / 6 / 12 / 25).max(32 << 20), "{gib} GiB");
        }
        assert_eq!(slot(u64::MAX), 64 << 20);
    }
}
