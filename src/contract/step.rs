//! The words of a step (`shaders/lib/step.wgsl`).

use super::{Member, Words};

/// The structs that a step holds, by name: what shaders have constants of.
pub const STEP: &[(&str, &[Member])] = &[
    ("StepHeader", StepHeader::MEMBERS),
    ("StepRow", StepRow::MEMBERS),
    ("StepSpan", StepSpan::MEMBERS),
    ("StepTile", StepTile::MEMBERS),
    ("StepSealing", StepSealing::MEMBERS),
];

crate::words! {
    /// The words that a step begins with: `H_ROWS` and so on in WGSL, where the assembler writes a constant for each.
    pub struct StepHeader {
        /// Rows in all.
        pub rows: u32,
        /// Tiles of a row's tokens in each split of decode attention.
        pub split_tiles: u32,
        /// Splits of a row's tokens.
        pub splits: u32,
        /// The first row that decodes densely: those that select come before it.
        pub first_dense: u32,
        /// Most blocks that level 1 keeps for a row.
        pub blocks_kept: u32,
        /// Most tokens that level 2 keeps for a row.
        pub tokens_kept: u32,
        /// Blocks at a sequence's beginning that are always attended.
        pub sink_blocks: u32,
        /// Blocks at its end that are.
        pub recent_blocks: u32,
        /// Where the rows begin ([`StepRow`]).
        pub rows_at: u32,
        /// Where the spans begin ([`StepSpan`]).
        pub spans_at: u32,
        /// Where the tiles of prefill begin ([`StepTile`]).
        pub tiles_at: u32,
        /// Where the blocks begin whose index is built ([`StepSealing`]).
        pub sealing_at: u32,
        /// Where the rotary angles begin: cosine and sine of each pair, row by row.
        pub angles_at: u32,
        /// Where the rows begin whose logits are wanted.
        pub outputs_at: u32,
        /// How many they are.
        pub outputs: u32,
        /// Words from a row's block table to that of its window in the hot cache.
        pub window: u32,
        /// A number that tells the blocks that arrive in this step from those that were there.
        pub epoch: u32,
    }

    /// A row: one token of a sequence.
    pub struct StepRow {
        /// The sequence's slot.
        pub sequence: u32,
        /// Its position.
        pub position: u32,
        /// Where its block table begins.
        pub table: u32,
        /// The token's id.
        pub token: u32,
        /// Blocks that level 1 keeps for it at most.
        pub blocks_kept: u32,
    }

    /// The consecutive rows of one sequence.
    pub struct StepSpan {
        /// The sequence's slot.
        pub sequence: u32,
        /// The first row.
        pub first_row: u32,
        /// How many.
        pub rows: u32,
        /// Position of the first.
        pub position: u32,
    }

    /// Rows of one span that prefill works on together.
    pub struct StepTile {
        /// The first row.
        pub first_row: u32,
        /// How many.
        pub rows: u32,
    }

    /// A block whose index is built in this step.
    pub struct StepSealing {
        /// The sequence's slot.
        pub sequence: u32,
        /// The physical block.
        pub block: u32,
        /// Where its keys and values are.
        pub place: u32,
    }
}
