//! A layer's tensors, bound to the kernels of decode attention.

use super::plan::Kind;
use super::recording::Words;
use super::{Pass, Selector};
use crate::gpu::Op;
use crate::kernels::{self, ChoiceOps, ScoreOps};
use crate::{Error, Result};
use std::sync::Arc;

/// Tensors of one layer, bound to the kernels of a [`Decode`](super::Decode).
pub struct Bound {
    pub(super) words: Arc<Words>,
    pub(super) selector: Selector,
    /// Segment by segment.
    pub(super) dense: Vec<Op>,
    pub(super) selected: Option<Vec<Op>>,
    pub(super) level_1: Option<Level>,
    pub(super) level_2: Option<Level>,
    pub(super) merge: Op,
    pub(super) index: Vec<Op>,
}

/// One level of selection.
pub(super) struct Level {
    pub(super) score: ScoreOps,
    pub(super) choice: ChoiceOps,
}

impl Bound {
    /// Records attention of the plan's rows.
    ///
    /// # Errors
    /// [`Error::Argument`] for a recording of another operator.
    pub fn attend(&self, pass: &mut Pass<'_>) -> Result<()> {
        let plan = pass.plan;
        let pass = pass.of(&self.words)?;
        let (step, shape) = (&plan.step, &plan.options.shape);
        let (heads, rows) = (shape.kv_heads, step.rows);
        let is_dense = plan.kind == Kind::Dense;
        if let (Kind::TwoLevel(two_level), Some(level_1), Some(level_2)) =
            (plan.kind, &self.level_1, &self.level_2)
        {
            let scores_blocks = step.scores_blocks(two_level.divisor());
            level_1.record(pass, scores_blocks.then_some(step.sealed), heads, rows);
            level_2.record(pass, step.ranks_tokens.then_some(step.blocks_kept), heads, rows);
        }
        let workgroups = kernels::split_workgroups(self.words.gpu.tier(), shape);
        for split in self.selected.as_ref().filter(|_| !is_dense).unwrap_or(&self.dense) {
            split.record(pass, step.splits, workgroups, rows);
        }
        self.merge.record(pass, shape.q_heads(), rows, kernels::merge_parts(shape));
        Ok(())
    }

    /// Records the building of the index of the blocks that the plan's sequences name, from the keys that the cache holds.
    ///
    /// # Errors
    /// As [`Bound::attend`]; [`Error::Argument`] where blocks are to be indexed and the selector has no index.
    pub fn index(&self, pass: &mut Pass<'_>) -> Result<()> {
        let plan = pass.plan;
        let pass = pass.of(&self.words)?;
        if self.index.is_empty() && plan.step.sealing > 0 {
            let limit = format!("{:?} has no index", self.selector);
            return Err(Error::argument("the number of blocks to index", plan.step.sealing, limit));
        }
        for op in &self.index {
            op.record(pass, plan.options.shape.kv_heads, plan.step.sealing, 1);
        }
        Ok(())
    }
}

impl Level {
    // `blocks` are those to score, where there is a choice.
    fn record(&self, pass: &mut wgpu::ComputePass<'_>, blocks: Option<u32>, heads: u32, rows: u32) {
        if let Some(blocks) = blocks {
            self.score.record(pass, blocks, heads, rows);
        }
        self.choice.record(pass, blocks.is_some(), heads, rows);
    }
}
