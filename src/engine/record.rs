//! A planned step, and what it records before and after the layers.

use super::Engine;
use crate::attention::{Step, Timing, TwoLevel};

#[derive(Clone, Copy)]
pub(super) enum Mode<'a> {
    Prefill,
    Decode(Option<&'a TwoLevel>),
}

/// A step and what its layers have in common.
pub(super) struct Plan<'a> {
    pub(super) step: Step,
    pub(super) mode: Mode<'a>,
    /// Whether a decode step attends the blocks that it chooses itself, or those that were there before.
    pub(super) timing: Timing,
    /// Whether rows go to the buffer of a chunk, and not to the cache.
    pub(super) is_chunk: bool,
    /// Segments of the cache that rows are appended to.
    pub(super) segments: Vec<u32>,
    /// Whether a row counts for the choice of index channels.
    pub(super) gathers_stats: bool,
}

impl Engine {
    pub(super) fn record_embedding(&self, pass: &mut wgpu::ComputePass<'_>, step: &Step) {
        let units = self.config.hidden.div_ceil(32);
        for embed in &self.ends.embed {
            embed.record(pass, units.div_ceil(8), step.rows, 1);
        }
    }

    pub(super) fn record_logits(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        step: &Step,
        wants_token: bool,
    ) {
        self.ends.output_norm.record(pass, step.outputs, 1, 1);
        self.ends.logits.record_matvec(pass, step.outputs);
        if wants_token {
            self.ends.arg_max.record(pass, step.outputs, 1, 1);
        }
    }
}
