//! What an offload engine did.

use serde::Serialize;

/// Counts of what the offload engine did so far. A step that is done again wants twice, and what it wants is counted twice.
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
    /// Head-blocks that level 1 chose for its own step.
    pub chosen: u64,
    /// Of those, the ones that the step did not attend, which stood all the same.
    pub unattended: u64,
    /// Steps that missed too much and were done again.
    pub redone: u64,
    /// The largest share of a query head's attention mass that a step missed which was weighed.
    pub most_missed: f32,
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
