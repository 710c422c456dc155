//! The plan of a step: which rows (tokens) of which sequences are worked on, as the words that kernels read
//! ([`StepHeader`]). Pure.

use super::splits::split_tiles;
use super::{Budget, Divisor, Shape};
use crate::contract::{StepHeader, StepRow, StepSealing, StepSpan, StepTile, Words};
use std::ops::Range;

/// Rows of one prefill tile.
pub const TILE_ROWS: u32 = 64;

/// How the rows of a span are attended. The spans of a step come in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Attended {
    /// In splits, by the step's budget; densely where it has none.
    #[default]
    Selected,
    /// In splits, every token up to the row's own.
    Dense,
    /// In tiles, every token up to the row's own.
    Prompt,
}

/// What a step should give back of a span's rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Want {
    /// Nothing: the step only extends the sequence.
    #[default]
    Nothing,
    /// The most likely next token.
    Token,
    /// The most likely next token after every token.
    EveryToken,
    /// The logits after the last token.
    Logits,
    /// The logits after every token.
    EveryLogits,
}

impl Want {
    /// Whether it is of every row, not of the last alone.
    #[cfg_attr(feature = "measure", visibility::make(pub))]
    pub(crate) fn is_of_every_row(self) -> bool {
        matches!(self, Self::EveryToken | Self::EveryLogits)
    }

    /// Whether it is tokens.
    #[cfg_attr(feature = "measure", visibility::make(pub))]
    pub(crate) fn is_token(self) -> bool {
        matches!(self, Self::Token | Self::EveryToken)
    }

    /// Of how many of a span's rows logits are computed.
    pub(crate) fn outputs(self, rows: usize) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Token | Self::Logits => rows.min(1),
            Self::EveryToken | Self::EveryLogits => rows,
        }
    }
}

/// The consecutive tokens of one sequence that a step works on.
#[derive(Clone, Debug, Default)]
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
    /// Sealed blocks whose index is to be built: the physical block, and where its keys and values are.
    pub sealing: &'a [[u32; 2]],
    /// How its rows are attended.
    pub attended: Attended,
    /// What is wanted of them.
    pub want: Want,
}

/// The settings of a step.
#[derive(Clone, Copy, Debug, Default)]
pub struct StepSettings<'a> {
    /// The budget of rows that select.
    pub budget: Option<&'a Budget>,
    /// The number of workgroups that the device runs at a time: splits are sized for it.
    pub target_workgroups: u32,
    /// Segments of the cache and the physical blocks of each; none where one holds all of them.
    pub segments: Option<(u32, u32)>,
    /// A number that tells the blocks that arrive in this step from those that were there.
    pub epoch: u32,
}

/// A planned step.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The words that kernels read.
    pub words: Vec<u32>,
    /// Rows in all: those that select, those that decode densely, and those of prompts.
    pub rows: u32,
    /// Rows that select: the first ones.
    pub selecting: u32,
    /// Rows that are attended in splits, those that select among them.
    pub decoding: u32,
    /// Spans: one a sequence.
    pub spans: u32,
    /// Tiles of all rows.
    pub tiles: u32,
    /// Tiles of prompts: the first ones.
    pub prompt_tiles: u32,
    /// Blocks whose index is built.
    pub sealing: u32,
    /// Rows whose logits are computed.
    pub outputs: u32,
    /// Those of them whose most likely token is wanted, not the logits themselves: the first ones.
    pub winners: u32,
    /// Splits of a row's tokens in decode attention.
    pub splits: u32,
    /// Most sealed blocks of a row that decodes.
    pub sealed: u32,
    /// Tokens that a prompt's row can attend, the longest context of these.
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
    /// Whether level 1 scores blocks, where token scores are divided so.
    pub fn scores_blocks(&self, divisor: Divisor) -> bool {
        self.ranks_blocks || self.ranks_tokens && divisor == Divisor::Blocks
    }

    /// Plans a step over spans of different sequences, in the order of [`Attended`]. `rotate` appends cosine and sine of a
    /// position's rotary angles, one a pair.
    pub fn new(
        shape: &Shape,
        spans: &[Span<'_>],
        settings: &StepSettings<'_>,
        rotate: impl Fn(u32, &mut Vec<[f32; 2]>),
    ) -> Self {
        let count: usize = spans.iter().map(|span| span.tokens.len()).sum();
        let mut rows: Vec<StepRow> = Vec::with_capacity(count);
        let mut step_spans = Vec::new();
        let (mut tiles, mut prompt_tiles) = (Vec::new(), Vec::new());
        let mut sealing = Vec::new();
        let (mut outputs, mut winners) = (Vec::new(), Vec::new());
        let mut appended = Vec::new();
        let mut angles = Vec::new();
        let mut tables = Vec::new();
        let mut windows = Vec::new();
        let mut table_ranges = Vec::new();
        let (mut most_attended, mut sealed, mut context, mut blocks_kept) = (0, 0, 0, 0);
        let (mut ranks_blocks, mut ranks_tokens) = (false, false);
        let (mut selecting, mut decoding) = (0, 0);
        let mut turns = Vec::new();
        debug_assert!(spans.is_sorted_by_key(|span| span.attended));
        for span in spans {
            let first_row = rows.len() as u32;
            // A row's budget, if it selects.
            let budget = settings.budget.filter(|_| span.attended == Attended::Selected);
            let is_prompt = span.attended == Attended::Prompt;
            let count = span.tokens.len() as u32;
            let (sequence, position) = (span.slot, span.position);
            step_spans.push(StepSpan { sequence, first_row, rows: count, position });
            let mut done = 0;
            while done < count {
                let tile =
                    StepTile { first_row: first_row + done, rows: TILE_ROWS.min(count - done) };
                if is_prompt { &mut prompt_tiles } else { &mut tiles }.push(tile);
                done += tile.rows;
            }
            selecting += if budget.is_some() { count } else { 0 };
            decoding += if is_prompt { 0 } else { count };
            for &[block, place] in span.sealing {
                sealing.push(StepSealing { sequence, block, place });
            }
            for (i, &token) in span.tokens.iter().enumerate() {
                let position = span.position + i as u32;
                let row_sealed = position / shape.block;
                let row_kept = budget.map_or(0, |budget| budget.blocks_kept(row_sealed));
                // The tables follow what is not yet counted.
                let table = tables.len() as u32;
                rows.push(StepRow { sequence, position, table, token, blocks_kept: row_kept });
                let block = span.table[(position / shape.block) as usize];
                if appended.last() != Some(&block) {
                    appended.push(block);
                }
                turns.clear();
                rotate(position, &mut turns);
                angles.extend(turns.as_flattened().iter().map(|value| value.to_bits()));
                if is_prompt {
                    context = context.max(position + 1);
                    continue;
                }
                sealed = sealed.max(row_sealed);
                most_attended = most_attended.max(match budget {
                    None => position + 1,
                    Some(budget) => {
                        blocks_kept = blocks_kept.max(row_kept);
                        let row = budget.row(position, shape.block);
                        ranks_blocks |= row.ranks_blocks();
                        ranks_tokens |= row.tokens < row.blocks * shape.block;
                        row.attended
                    }
                });
            }
            let end = rows.len() as u32;
            let wanted = end - span.want.outputs(span.tokens.len()) as u32..end;
            if span.want.is_token() { &mut winners } else { &mut outputs }.extend(wanted);
            table_ranges.push(tables.len()..tables.len() + span.table.len());
            tables.extend_from_slice(span.table);
            windows.extend_from_slice(span.window.unwrap_or_default());
        }

        let prompts = prompt_tiles.len();
        prompt_tiles.append(&mut tiles);
        let tiles = prompt_tiles;
        let first_logits = winners.len();
        winners.append(&mut outputs);
        let outputs = winners;

        let attended_tiles = most_attended.div_ceil(shape.tile_tokens());
        let workgroups = decoding * shape.row_workgroups();
        let split_tiles = split_tiles(
            attended_tiles,
            &loads(shape, spans, settings.segments),
            workgroups,
            settings.target_workgroups,
        );
        let splits = attended_tiles.div_ceil(split_tiles);

        let rows_at = StepHeader::COUNT;
        let spans_at = rows_at + rows.len() * StepRow::COUNT;
        let tiles_at = spans_at + step_spans.len() * StepSpan::COUNT;
        let sealing_at = tiles_at + tiles.len() * StepTile::COUNT;
        let angles_at = sealing_at + sealing.len() * StepSealing::COUNT;
        let outputs_at = angles_at + angles.len();
        let tables_at = outputs_at + outputs.len();
        for row in &mut rows {
            row.table += tables_at as u32;
        }
        let budget = settings.budget;
        let tokens_kept = budget.map_or(0, |b| b.tokens.min(blocks_kept * shape.block));
        let window = tables.len();
        let header = StepHeader {
            rows: rows.len() as u32,
            split_tiles,
            splits,
            first_dense: selecting,
            blocks_kept,
            tokens_kept,
            sink_blocks: budget.map_or(0, |b| b.sink_blocks),
            recent_blocks: budget.map_or(0, |b| b.recent_blocks),
            rows_at: rows_at as u32,
            spans_at: spans_at as u32,
            tiles_at: tiles_at as u32,
            sealing_at: sealing_at as u32,
            angles_at: angles_at as u32,
            outputs_at: outputs_at as u32,
            outputs: outputs.len() as u32,
            window: window as u32,
            epoch: settings.epoch,
        };
        let mut words = header.words().to_vec();
        words.extend_from_slice(bytemuck::cast_slice(&rows));
        words.extend_from_slice(bytemuck::cast_slice(&step_spans));
        words.extend_from_slice(bytemuck::cast_slice(&tiles));
        words.extend_from_slice(bytemuck::cast_slice(&sealing));
        for part in [&angles, &outputs, &tables, &windows] {
            words.extend_from_slice(part);
        }
        Self {
            words,
            rows: rows.len() as u32,
            selecting,
            decoding,
            spans: spans.len() as u32,
            tiles: tiles.len() as u32,
            prompt_tiles: prompts as u32,
            sealing: sealing.len() as u32,
            outputs: outputs.len() as u32,
            winners: first_logits as u32,
            splits,
            sealed,
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
        // A row's angles and output; of each block a place in both tables, and that its index is built.
        StepHeader::COUNT as u64
            + rows * (StepRow::COUNT as u64 + u64::from(shape.head_dim) + 1)
            + sequences * StepSpan::COUNT as u64
            + (rows.div_ceil(u64::from(TILE_ROWS)) + sequences) * StepTile::COUNT as u64
            + sequences * blocks_a_sequence * (2 + StepSealing::COUNT as u64)
    }
}

// Of each segment, the workgroups that have something to do there for each split of the rows that decode, as if a row that selects
// attended as much of each of its blocks, and as if rows that select and others had one dispatch.
fn loads(shape: &Shape, spans: &[Span<'_>], segments: Option<(u32, u32)>) -> Vec<f64> {
    // More than these count as the last of them.
    const MOST_SEGMENTS: u32 = 1024;
    let (count, segment_blocks) = segments.unwrap_or((1, u32::MAX));
    let count = count.min(MOST_SEGMENTS);
    let mut loads = vec![0.0; count as usize];
    let mut counts = vec![0u32; loads.len()];
    for span in spans.iter().filter(|span| span.attended != Attended::Prompt) {
        let Some(later) = span.tokens.len().checked_sub(1) else { continue };
        let workgroups = span.tokens.len() as f64 * f64::from(shape.row_workgroups());
        if count == 1 {
            loads[0] += workgroups;
            continue;
        }
        let blocks = &span.table[..=((span.position + later as u32) / shape.block) as usize];
        counts.fill(0);
        for block in blocks {
            counts[(block / segment_blocks).min(count - 1) as usize] += 1;
        }
        for (load, &blocks_there) in loads.iter_mut().zip(&counts) {
            *load += workgroups * f64::from(blocks_there) / blocks.len() as f64;
        }
    }
    loads
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::attention::{Blocks, IndexFormat, Values};

    const SHAPE: Shape = Shape {
        kv_heads: 3,
        group: 3,
        head_dim: 64,
        values: Values::Own,
        scaled_by: 64,
        softcap: None,
        rope_interleaved: true,
        block: 64,
        index: IndexFormat { channels: 32, bits: 4 },
    };

    fn span<'a>(slot: u32, position: u32, tokens: &'a [u32], table: &'a [u32]) -> Span<'a> {
        Span { slot, position, tokens, table, want: Want::Logits, ..Default::default() }
    }

    fn header(step: &Step) -> StepHeader {
        *bytemuck::from_bytes(bytemuck::cast_slice(&step.words[..StepHeader::COUNT]))
    }

    #[test]
    fn ragged_spans_share_a_step() {
        let long: Vec<u32> = (0..130).collect();
        let spans = [span(2, 60, &long, &[7, 3, 9]), span(0, 0, &[5], &[1])];
        let settings = StepSettings { target_workgroups: 64, ..Default::default() };
        let step = Step::new(&SHAPE, &spans, &settings, |p, out| out.extend([[p as f32; 2]; 32]));
        assert_eq!((step.rows, step.spans, step.tiles, step.outputs), (131, 2, 4, 2));
        assert_eq!(step.appended, [7, 3, 9, 1]);
        let header = header(&step);
        let words = |at: u32| &step.words[at as usize..];
        let row = |r: usize| -> StepRow {
            let words = &words(header.rows_at)[r * StepRow::COUNT..];
            *bytemuck::from_bytes(bytemuck::cast_slice(&words[..StepRow::COUNT]))
        };
        assert_eq!((row(0).sequence, row(0).position), (2, 60));
        assert_eq!((row(129).sequence, row(129).position), (2, 189));
        assert_eq!((row(130).sequence, row(130).position, row(130).token), (0, 0, 5));
        assert_eq!(words(row(0).table)[..3], [7, 3, 9]);
        assert_eq!(words(row(130).table)[0], 1);
        assert_eq!(words(header.tiles_at)[..8], [0, 64, 64, 64, 128, 2, 130, 1]);
        assert_eq!(words(header.outputs_at)[..2], [129, 130]);
        assert!(step.words.len() as u64 <= Step::most_words(&SHAPE, 131, 2, 3));
    }

    #[test]
    fn rows_of_every_kind_have_their_ranges() {
        let budget = Budget {
            blocks: Blocks::Percent(50.0),
            tokens: 100,
            sink_blocks: 0,
            recent_blocks: 0,
            dense_below: 0,
        };
        let (table, prompt) = ([0; 8], [7; 70]);
        let with = |span, attended, want| Span { attended, want, ..span };
        let spans = [
            // Over the end of the fourth block.
            with(span(0, 254, &[1, 2, 3], &table), Attended::Selected, Want::EveryToken),
            with(span(1, 9, &[4], &table), Attended::Dense, Want::Logits),
            with(span(2, 300, &prompt, &table), Attended::Prompt, Want::Token),
            with(span(3, 0, &[5, 6], &table), Attended::Prompt, Want::Nothing),
        ];
        let settings =
            StepSettings { budget: Some(&budget), target_workgroups: 64, ..Default::default() };
        let step = Step::new(&SHAPE, &spans, &settings, |_, out| out.extend([[1.0, 0.0]; 32]));
        assert_eq!((step.rows, step.selecting, step.decoding), (76, 3, 4));
        assert_eq!((step.tiles, step.prompt_tiles, step.context), (5, 3, 370));
        let header = header(&step);
        let words = |at: u32| &step.words[at as usize..];
        assert_eq!(header.first_dense, 3);
        assert_eq!(words(header.tiles_at)[..6], [4, 64, 68, 6, 74, 2]);
        // Tokens first, in the order of their spans, then logits.
        assert_eq!((step.outputs, step.winners), (5, 4));
        assert_eq!(words(header.outputs_at)[..5], [0, 1, 2, 73, 3]);
        // Each row keeps what its own step would.
        let kept = |row: usize| words(header.rows_at)[(row + 1) * StepRow::COUNT - 1];
        assert_eq!([0, 1, 2, 3, 4].map(kept), [2, 2, 2, 0, 0]);
        assert_eq!((step.sealed, step.blocks_kept), (4, 2));
        assert!(step.words.len() as u64 <= Step::most_words(&SHAPE, 76, 4, 8));
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
                let split = header(&step).split_tiles * 64;
                let reach = split * step.splits;
                assert!(reach >= tokens && reach - split < tokens, "{tokens} {target}");
            }
        }
    }

    // A row that keeps all blocks, and not all of their tokens, needs what the blocks' scores come to.
    #[test]
    fn blocks_are_scored_where_tokens_are_ranked_by_them() {
        let table = vec![0; 10];
        let scored = |blocks, tokens, divisor| {
            let blocks = crate::attention::Blocks::Count(blocks);
            let budget =
                Budget { blocks, tokens, sink_blocks: 1, recent_blocks: 1, dense_below: 0 };
            let settings = StepSettings { budget: Some(&budget), ..Default::default() };
            let spans = [span(0, 9 * SHAPE.block, &[0], &table)];
            let step = Step::new(&SHAPE, &spans, &settings, |_, out| out.extend([[1.0, 0.0]; 32]));
            step.scores_blocks(divisor)
        };
        for divisor in [Divisor::Candidates, Divisor::Blocks] {
            assert!(scored(3, 21, divisor) && scored(3, u32::MAX, divisor));
            assert!(!scored(1000, u32::MAX, divisor));
        }
        assert!(scored(1000, 21, Divisor::Blocks) && !scored(1000, 21, Divisor::Candidates));
    }

    // What only builds an index has no tokens, and may end where its table does.
    #[test]
    fn a_span_without_tokens_counts_among_no_splits() {
        let table = vec![0, 5];
        for segments in [None, Some((3, 3))] {
            let settings = StepSettings { target_workgroups: 16, segments, ..Default::default() };
            let plan = |spans: &[Span<'_>]| {
                Step::new(&SHAPE, spans, &settings, |_, out| out.extend([[1.0, 0.0]; 32]))
            };
            let sealing = [[5, 5]];
            let index = Span { sealing: &sealing, ..span(0, 128, &[], &table) };
            let alone = plan(std::slice::from_ref(&index));
            assert_eq!((alone.rows, alone.splits, alone.sealing), (0, 0, 1));
            let beside = plan(&[index, span(1, 100, &[0, 0], &table)]);
            assert_eq!((beside.rows, beside.splits), (2, 2));
        }
    }

    // Eight rows of which each segment has four: as many splits have work in its dispatch as fill the device.
    #[test]
    fn splits_of_one_segment_fill_the_device() {
        let tokens = 100_000;
        let tables = [0, 2000].map(|first| (first..first + 2000).collect::<Vec<u32>>());
        let spans = [0, 1, 0, 1, 0, 1, 0, 1].map(|i: usize| span(0, tokens - 1, &[0], &tables[i]));
        let splits = |segments| {
            let settings = StepSettings { target_workgroups: 512, segments, ..Default::default() };
            Step::new(&SHAPE, &spans, &settings, |_, out| out.extend([[1.0, 0.0]; 32])).splits
        };
        let of_rows = |rows: u32| rows * SHAPE.row_workgroups();
        assert!((480..=512).contains(&(of_rows(8) * splits(None))), "{}", splits(None));
        let of_two = of_rows(4) * splits(Some((2, 2000)));
        assert!((480..=512).contains(&of_two), "{of_two}");
        assert_eq!(splits(Some((1, 4000))), splits(None));
    }
}
