//! Summaries of sealed blocks.

use super::Shape;

/// What is kept of a block's keys, by KV head: rows of one f16 for each dimension. A block's score is linear in them, so that
/// the queries of a group are folded into rows of their own and summed before any block is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// What it keeps, as in "block bounds".
    pub name: &'static str,
    /// Rows.
    pub rows: u32,
    /// The file that makes the rows of a block's keys: the slot of `index/block_summary.wgsl`.
    pub(crate) summarise: &'static str,
    /// The file that folds a query into rows: the slot of `select/summary_score.wgsl`.
    pub(crate) fold: &'static str,
    /// Numbers that it folds by.
    pub(crate) constants: &'static [(&'static str, f32)],
}

impl Summary {
    /// Bytes of one block in one layer.
    pub fn block_bytes(&self, shape: &Shape) -> u64 {
        u64::from(shape.kv_heads) * u64::from(self.rows) * u64::from(shape.head_dim) * 2
    }
}
