//! A planned step.

use crate::attention::{Attended, Step, Timing, TwoLevel, Want};

/// A step in which the tokens of every session are attended alike.
#[derive(Clone, Copy)]
pub(super) enum Mode<'a> {
    Prefill,
    Decode(Option<&'a TwoLevel>),
}

/// What a step does with the tokens of one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Role {
    pub(super) attended: Attended,
    pub(super) want: Want,
}

/// A step and what its layers have in common.
pub(super) struct Plan<'a> {
    pub(super) step: Step,
    /// What the rows select by that do.
    pub(super) selection: Option<&'a TwoLevel>,
    /// Whether a decode step attends the blocks that it chooses itself, or those that were there before.
    pub(super) timing: Timing,
    /// Whether what it misses by that is weighed.
    pub(super) weighs_missed: bool,
    /// Whether rows go to the buffer of a chunk, and not to the cache.
    pub(super) is_chunk: bool,
    /// Segments of the cache that rows are appended to.
    pub(super) segments: Vec<u32>,
    /// Whether a row counts for the choice of index channels.
    pub(super) gathers_stats: bool,
}
