//! A planned step, and what it records before and after the layers.

use super::Engine;
use crate::attention::{Attended, Step, Timing, TwoLevel, Want};
use crate::kernels;

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

    /// Records what is wanted of a step's rows.
    pub(super) fn record_logits(&self, pass: &mut wgpu::ComputePass<'_>, step: &Step) {
        if step.outputs == 0 {
            return;
        }
        self.ends.output_norm.record(pass, step.outputs, 1, 1);
        self.ends.logits.record_matvec(pass, step.outputs);
        if step.winners > 0 {
            let parts = kernels::arg_max_parts(self.config.vocabulary);
            self.ends.arg_max_part.record(pass, parts, step.winners, 1);
            self.ends.arg_max.record(pass, step.winners, 1, 1);
        }
    }
}
