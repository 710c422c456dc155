//! The plan of a step: which rows (tokens) of which sequences are worked on, as the words that kernels read. Pure.
//!
//! `shaders/lib/step.wgsl` documents the layout and keeps the same header.

use super::{Budget, Shape};
use std::ops::Range;

/// Rows of one prefill tile.
pub const TILE_ROWS: u32 = 64;

const HEADER: usize = 15;
const ROW_WORDS: usize = 4;

/// The consecutive tokens of one sequence that a step works on.
#[derive(Clone, Debug)]
pub struct Span<'a> {
    /// The sequence's slot.
    pub slot: u32,
    /// Position of the first token.
    pub position: u32,
    /// Token ids, at least one.
    pub tokens: &'a [u32],
    /// Physical block of each logical block, the ones that hold these tokens included.
    pub table: &'a [u32],
    /// The slot of each logical block in the window of the hot cache; none where the whole cache is on the GPU.
    pub window: Option<&'a [u32]>,
    /// Closed blocks whose index is to be built: the physical block, and where its keys and values are.
    pub closing: &'a [[u32; 2]],
}

/// What a step does with its rows.
#[derive(Clone, Copy, Debug, Default)]
pub struct StepSettings<'a> {
    /// Two-level attention with this budget; dense otherwise.
    pub budget: Option<&'a Budget>,
    /// The number of workgroups that fill the device: splits are sized for it.
    pub target_workgroups: u32,
    /// Whether logits are wanted of every row, or of the last row of each span.
    pub every_row: bool,
    /// What tells the blocks that arrive in this step from those that were there.
    pub epoch: u32,
}

/// A planned step.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The words that kernels read.
    pub words: Vec<u32>,
    /// Rows in all.
    pub rows: u32,
    /// Spans: one a sequence.
    pub spans: u32,
    /// Prefill tiles.
    pub tiles: u32,
    /// Blocks whose index is built.
    pub closing: u32,
    /// Rows whose logits are wanted.
    pub outputs: u32,
    /// Splits of a row's tokens in decode attention.
    pub splits: u32,
    /// Most closed blocks of a row.
    pub closed: u32,
    /// Tokens that a row can attend, the longest context of the step.
    pub context: u32,
    /// Level 1's and level 2's budgets.
    pub blocks_kept: u32,
    /// Tokens that level 2 keeps.
    pub tokens_kept: u32,
    /// Whether a row's level 1 has more blocks to choose from than it keeps.
    pub ranks_blocks: bool,
    /// Whether a row's level 2 has more tokens to choose from than it keeps.
    pub ranks_tokens: bool,
    /// Physical blocks that rows are appended to.
    pub appended: Vec<u32>,
    // Where the block table of each span lies in the words.
    tables: Vec<Range<usize>>,
    // Words from there to the table of the span's window.
    window: usize,
}

impl Step {
    /// Plans a step over spans of different sequences. `rotate` appends cosine and sine of a position's rotary angles, one a
    /// pair.
    pub fn new(
        shape: &Shape,
        spans: &[Span<'_>],
        settings: &StepSettings<'_>,
        rotate: impl Fn(u32, &mut Vec<[f32; 2]>),
    ) -> Self {
        let rows: usize = spans.iter().map(|span| span.tokens.len()).sum();
        let mut row_words = Vec::with_capacity(rows * ROW_WORDS);
        let mut span_words = Vec::new();
        let mut tiles = Vec::new();
        let mut closing = Vec::new();
        let mut outputs = Vec::new();
        let mut appended = Vec::new();
        let mut angles = Vec::new();
        let mut tables = Vec::new();
        let mut windows = Vec::new();
        let mut table_ranges = Vec::new();
        let (mut most_attended, mut closed, mut context, mut blocks_kept) = (0, 0, 0, 0);
        let (mut ranks_blocks, mut ranks_tokens) = (false, false);
        let mut turns = Vec::new();
        for span in spans {
            let first_row = (row_words.len() / ROW_WORDS) as u32;
            let count = span.tokens.len() as u32;
            span_words.extend([span.slot, first_row, count, span.position]);
            let mut done = 0;
            while done < count {
                let tile = TILE_ROWS.min(count - done);
                tiles.extend([first_row + done, tile]);
                done += tile;
            }
            for &[block, place] in span.closing {
                closing.extend([span.slot, block, place]);
            }
            for (i, &token) in span.tokens.iter().enumerate() {
                let position = span.position + i as u32;
                row_words.extend([span.slot, position, tables.len() as u32, token]);
                let block = span.table[(position / shape.block) as usize];
                if appended.last() != Some(&block) {
                    appended.push(block);
                }
                turns.clear();
                rotate(position, &mut turns);
                angles.extend(turns.as_flattened().iter().map(|value| value.to_bits()));
                let row_closed = position / shape.block;
                closed = closed.max(row_closed);
                context = context.max(position + 1);
                most_attended = most_attended.max(match settings.budget {
                    None => position + 1,
                    Some(budget) => {
                        blocks_kept = blocks_kept.max(budget.blocks_kept(row_closed));
                        let row = budget.row(position, shape.block);
                        ranks_blocks |= row.blocks < row.recent_first - row.sink;
                        ranks_tokens |= row.tokens < row.blocks * shape.block;
                        row.attended
                    }
                });
                if settings.every_row || i + 1 == span.tokens.len() {
                    outputs.push(first_row + i as u32);
                }
            }
            table_ranges.push(tables.len()..tables.len() + span.table.len());
            tables.extend_from_slice(span.table);
            windows.extend_from_slice(span.window.unwrap_or_default());
        }

        // Splits of whole tiles: as many as fill the device, at most one a tile.
        let attended_tiles = most_attended.div_ceil(shape.tile_tokens());
        let workgroups = rows as u32 * shape.kv_heads * shape.group.div_ceil(4);
        let split_tiles =
            (attended_tiles * workgroups).div_ceil(settings.target_workgroups.max(1)).max(1);
        let splits = attended_tiles.div_ceil(split_tiles);

        let rows_at = HEADER;
        let spans_at = rows_at + row_words.len();
        let tiles_at = spans_at + span_words.len();
        let closing_at = tiles_at + tiles.len();
        let angles_at = closing_at + closing.len();
        let outputs_at = angles_at + angles.len();
        let tables_at = outputs_at + outputs.len();
        for row in row_words.chunks_exact_mut(ROW_WORDS) {
            row[2] += tables_at as u32;
        }
        let budget = settings.budget;
        let tokens_kept = budget.map_or(0, |b| b.tokens.min(blocks_kept * shape.block));
        let mut words = vec![
            rows as u32,
            split_tiles,
            splits,
            blocks_kept,
            tokens_kept,
            budget.map_or(0, |b| b.sink_blocks),
            budget.map_or(0, |b| b.recent_blocks),
            rows_at as u32,
            spans_at as u32,
            tiles_at as u32,
            closing_at as u32,
            angles_at as u32,
            outputs_at as u32,
            tables.len() as u32,
            settings.epoch,
        ];
        debug_assert_eq!(words.len(), HEADER);
        let (tile_count, closing_count, output_count) =
            (tiles.len() as u32 / 2, closing.len() as u32 / 3, outputs.len() as u32);
        let window = tables.len();
        for part in [row_words, span_words, tiles, closing, angles, outputs, tables, windows] {
            words.extend(part);
        }
        Self {
            words,
            rows: rows as u32,
            spans: spans.len() as u32,
            tiles: tile_count,
            closing: closing_count,
            outputs: output_count,
            splits,
            closed,
            context,
            blocks_kept,
            tokens_kept,
            ranks_blocks,
            ranks_tokens,
            appended,
            tables: table_ranges
                .into_iter()
                .map(|range: Range<usize>| tables_at + range.start..tables_at + range.end)
                .collect(),
            window,
        }
    }

    /// The words for kernels that append to the window of the hot cache: the tables name its slots.
    pub fn over_window(&self) -> Vec<u32> {
        let mut words = self.words.clone();
        for table in &self.tables {
            words.copy_within(table.start + self.window..table.end + self.window, table.start);
        }
        words
    }

    /// The words for keys and values that lie in the order of a sequence, block after block.
    pub fn over_slabs(&self) -> Vec<u32> {
        let mut words = self.words.clone();
        for table in &self.tables {
            for (logical, physical) in words[table.clone()].iter_mut().enumerate() {
                *physical = logical as u32;
            }
        }
        words
    }

    /// The most words that a step can take.
    pub fn most_words(shape: &Shape, rows: u64, sequences: u64, blocks_a_sequence: u64) -> u64 {
        HEADER as u64
            + rows * (ROW_WORDS as u64 + u64::from(shape.head_dim) + 1)
            + sequences * 4
            + (rows.div_ceil(u64::from(TILE_ROWS)) + sequences) * 2
            + sequences * blocks_a_sequence * 5
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::attention::{IndexFormat, Values};

    const SHAPE: Shape = Shape {
        kv_heads: 3,
        group: 3,
        head_dim: 64,
        values: Values::Own,
        scaled_by: 64,
        rope_interleaved: true,
        block: 64,
        index: IndexFormat { channels: 32, bits: 4 },
    };

    fn span<'a>(slot: u32, position: u32, tokens: &'a [u32], table: &'a [u32]) -> Span<'a> {
        Span { slot, position, tokens, table, window: None, closing: &[] }
    }

    #[test]
    fn ragged_spans_share_a_step() {
        let long: Vec<u32> = (0..130).collect();
        let spans = [span(2, 60, &long, &[7, 3, 9]), span(0, 0, &[5], &[1])];
        let settings = StepSettings { target_workgroups: 64, ..Default::default() };
        let step = Step::new(&SHAPE, &spans, &settings, |p, out| out.extend([[p as f32; 2]; 32]));
        assert_eq!((step.rows, step.spans, step.tiles, step.outputs), (131, 2, 4, 2));
        assert_eq!(step.appended, [7, 3, 9, 1]);
        let at = |header: usize| step.words[header] as usize;
        let row = |r: usize| &step.words[at(7) + r * 4..][..4];
        assert_eq!(row(0)[..2], [2, 60]);
        assert_eq!(row(129)[..2], [2, 189]);
        assert_eq!((row(130)[0], row(130)[1], row(130)[3]), (0, 0, 5));
        assert_eq!(step.words[row(0)[2] as usize..][..3], [7, 3, 9]);
        assert_eq!(step.words[row(130)[2] as usize], 1);
        assert_eq!(step.words[at(9)..][..8], [0, 64, 64, 64, 128, 2, 130, 1]);
        assert_eq!(step.words[at(12)..][..2], [129, 130]);
        assert!(step.words.len() as u64 <= Step::most_words(&SHAPE, 131, 2, 3));
    }

    #[test]
    fn splits_cover_the_longest_row_and_no_more() {
        for tokens in [1, 63, 64, 65, 4000, 100_000] {
            let table = vec![0; 2000];
            let spans = [span(0, tokens - 1, &[0], &table)];
            for target in [1, 16, 512] {
                let settings = StepSettings { target_workgroups: target, ..Default::default() };
                let step =
                    Step::new(&SHAPE, &spans, &settings, |_, out| out.extend([[1.0, 0.0]; 32]));
                let reach = step.words[1] * 64 * step.splits;
                assert!(
                    reach >= tokens && reach - step.words[1] * 64 < tokens,
                    "{tokens} {target}"
                );
            }
        }
    }
}
