//! The plan of a batch: what is attended, checked whole before anything is recorded. Pure.

use super::{Options, Selector};
use crate::attention::{Blocks, Budget, RowBudget, Span, Step, StepSettings, TwoLevel};
use crate::contract::{StepHeader, StepRow, Words};
use crate::{Error, Result};
use std::ops::Range;

/// One sequence of a batch.
#[derive(Clone, Debug)]
pub struct Sequence<'a> {
    /// Tokens that the cache holds of it, those of the batch's rows included.
    pub length: u32,
    /// How many of its last tokens have queries in the batch: their rows follow those of the sequences before. One in a usual
    /// decode step, a chunk of a prompt in prefill; none where only the index is built.
    pub rows: u32,
    /// The physical block of each logical block. There may be more than the sequence needs.
    pub blocks: &'a [u32],
    /// Sealed logical blocks whose index is to be built ([`Bound::index`](super::Bound::index)): those in which every token is
    /// there, and whose index is not. A token that is attended by two levels needs the index of every block before its own.
    pub index: Range<u32>,
}

/// What the rows of a batch attend.
#[derive(Clone, Copy, Debug)]
pub enum Select<'a> {
    /// Every token up to the row's own: any operator can.
    Dense,
    /// What two levels choose: the scorers must be the operator's. `dense_below` is not looked at; it is for the caller to
    /// plan short sequences as dense.
    TwoLevel(TwoLevel),
    /// The row's own block up to the row, and the positions listed: row by row, a list for each KV head, ascending and before
    /// that block.
    Tokens(&'a [Vec<u32>]),
}

/// Sequences that are attended at a time, and how.
#[derive(Clone, Debug)]
pub struct Batch<'a> {
    /// The sequences.
    pub sequences: &'a [Sequence<'a>],
    /// What their rows attend.
    pub select: Select<'a>,
}

/// A checked batch, ready to be recorded any number of times.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub(super) options: Options,
    pub(super) step: Step,
    pub(super) kind: Kind,
    /// Of each row.
    budgets: Vec<RowBudget>,
    /// A caller's lists, filled up; or the words of the step over slabs.
    pub(super) given: Vec<u32>,
    /// Tokens that the longest row attends, itself included: none without rows.
    pub(super) context: u32,
    /// Pairs of dimensions that there are angles of, for each row.
    pub(super) pairs: u32,
}

/// What a plan needs of the operator that records it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Dense,
    TwoLevel(TwoLevel),
    Given,
    /// Dense, over slabs of latents.
    Slabs,
}

impl Kind {
    /// Whether an operator with this selector can record it.
    pub(super) fn suits(self, selector: Selector) -> bool {
        match (self, selector) {
            (Self::Dense, _) | (Self::Given, Selector::Caller) => true,
            (Self::TwoLevel(two_level), Selector::TwoLevel { blocks, tokens }) => {
                (two_level.block_scorer, two_level.token_scorer) == (blocks, tokens)
            }
            _ => false,
        }
    }
}

/// Every sealed block, and so many tokens of them.
fn listed(tokens: u32) -> Budget {
    let blocks = Blocks::Percent(100.0);
    Budget { blocks, tokens, sink_blocks: 0, recent_blocks: 0, dense_below: 0 }
}

/// The most blocks whose index is built in one step: a dimension of the dispatch.
const MOST_INDEXED: usize = 65_535;

impl Plan {
    /// Plans a batch.
    ///
    /// # Errors
    /// [`Error::Argument`] naming what in the batch is wrong, its value and the limit.
    pub fn new(options: &Options, batch: &Batch<'_>) -> Result<Self> {
        options.validate()?;
        let shape = &options.shape;
        check_sequences(options, batch.sequences)?;
        let positions: Vec<u32> = batch
            .sequences
            .iter()
            .flat_map(|sequence| sequence.length - sequence.rows..sequence.length)
            .collect();
        let (kind, budget) = match batch.select {
            Select::Dense => (Kind::Dense, None),
            Select::TwoLevel(two_level) => {
                two_level.budget.validate()?;
                (Kind::TwoLevel(two_level), Some(two_level.effective_budget()))
            }
            Select::Tokens(lists) => {
                let longest = check_lists(options, &positions, lists)?;
                (Kind::Given, Some(listed(longest)))
            }
        };
        // A block that is nowhere follows each table: its tokens, which fill up a caller's lists, are not attended.
        let tables: Vec<Vec<u32>> = batch
            .sequences
            .iter()
            .map(|sequence| {
                let needed = sequence.length.div_ceil(shape.block) as usize;
                sequence.blocks[..needed].iter().copied().chain([u32::MAX]).collect()
            })
            .collect();
        let sealing: Vec<Vec<[u32; 2]>> = batch
            .sequences
            .iter()
            .map(|sequence| {
                let blocks = &sequence.blocks[sequence.index.start as usize..];
                blocks[..sequence.index.len()].iter().map(|&block| [block; 2]).collect()
            })
            .collect();
        // Kernels of attention read no ids.
        let most = batch.sequences.iter().map(|sequence| sequence.rows).max().unwrap_or(0);
        let ids = vec![0; most as usize];
        let spans: Vec<Span<'_>> = batch
            .sequences
            .iter()
            .zip(tables.iter().zip(&sealing))
            .map(|(sequence, (table, sealing))| Span {
                // One set of index channels serves all.
                slot: 0,
                position: sequence.length - sequence.rows,
                tokens: &ids[..sequence.rows as usize],
                table,
                sealing,
                ..Default::default()
            })
            .collect();
        let settings = StepSettings {
            budget: budget.as_ref(),
            target_workgroups: options.workgroups,
            segments: Some((options.segments(), options.segment_blocks)),
            ..Default::default()
        };
        let step = Step::new(shape, &spans, &settings, |_, _| ());
        // As a row has it that keeps everything before its block, where nothing selects.
        let everything = listed(u32::MAX);
        let budget = budget.unwrap_or(everything);
        let budgets = positions.iter().map(|&at| {
            let kept = match kind {
                Kind::Dense | Kind::Slabs => u32::MAX,
                Kind::TwoLevel(_) | Kind::Given => budget.blocks_kept(at / shape.block),
            };
            let always = (budget.sink_blocks, budget.recent_blocks);
            RowBudget::new(at, shape.block, kept, budget.tokens, always)
        });
        let mut plan = Self {
            options: *options,
            kind,
            budgets: budgets.collect(),
            step,
            given: Vec::new(),
            context: positions.iter().max().map_or(0, |position| position + 1),
            pairs: 0,
        };
        if let Select::Tokens(lists) = batch.select {
            plan.given = fill_up(options, batch.sequences, lists, plan.step.tokens_kept);
        }
        Ok(plan)
    }

    /// Plans a dense batch of one sequence over slabs.
    pub(super) fn over_slabs(options: &Options, batch: &Batch<'_>) -> Result<Self> {
        let plan = Self::new(options, batch)?;
        Ok(Self { kind: Kind::Slabs, given: plan.step.over_slabs(), ..plan })
    }

    /// The same plan with rotary angles, by which keys are turned as they are appended
    /// ([`AppendTensors::turns`](super::AppendTensors::turns)): `turn` gives cosine and sine of each pair of dimensions at a
    /// position.
    ///
    /// # Errors
    /// [`Error::Argument`] for no pairs, more than a head has, or another number at another position.
    pub fn turning(mut self, turn: impl Fn(u32) -> Vec<[f32; 2]>) -> Result<Self> {
        let most = self.options.shape.head_dim / 2;
        let mut angles = Vec::new();
        for row in 0..self.step.rows as usize {
            let of_row = turn(self.step.words[self.position_at(row)]);
            let (count, first) = (of_row.len() as u64, angles.len() / (row.max(1) * 2));
            let what = "the number of pairs that are turned";
            if !(1..=u64::from(most)).contains(&count) {
                let limit = format!("a head has 1 to {most}");
                return Err(Error::argument(what, count, limit));
            }
            if row > 0 && count != first as u64 {
                return Err(Error::argument(what, count, format!("the first row's are {first}")));
            }
            angles.extend(of_row.as_flattened().iter().map(|value| value.to_bits()));
            self.pairs = count as u32;
        }
        let at = self.step.words.len() as u32;
        let header = &mut self.step.words[..StepHeader::COUNT];
        bytemuck::from_bytes_mut::<StepHeader>(bytemuck::cast_slice_mut(header)).angles_at = at;
        self.step.words.extend(angles);
        Ok(self)
    }

    /// Rows in all.
    pub fn rows(&self) -> u32 {
        self.step.rows
    }

    /// Of each row what its budget comes to: tokens attended, where the recent window begins and so on. Of a dense plan, and
    /// of one by a caller's lists, the recent window is the row's own block.
    pub fn budgets(&self) -> &[RowBudget] {
        &self.budgets
    }

    /// Tokens in each list of [`Decode::chosen_tokens`](super::Decode::chosen_tokens), which may use fewer of them.
    pub fn tokens_kept(&self) -> u32 {
        self.step.tokens_kept
    }

    /// The positions that a row attends of a KV head, given what [`Decode::chosen_tokens`](super::Decode::chosen_tokens) holds
    /// after a two-level plan was recorded: ascending.
    ///
    /// # Panics
    /// Where there is no such row or KV head, or `chosen` is shorter than the plan says.
    pub fn attended(&self, row: usize, kv_head: usize, chosen: &[u32]) -> Vec<u32> {
        let RowBudget { sink, recent_first, tokens, .. } = self.budgets[row];
        let block = self.options.shape.block;
        let position = self.step.words[self.position_at(row)];
        let kept = self.step.tokens_kept as usize;
        let at = (row * self.options.shape.kv_heads as usize + kv_head) * kept;
        let listed = chosen[at..at + tokens as usize].iter().copied();
        (0..sink * block).chain(listed).chain(recent_first * block..=position).collect()
    }

    // Where the step holds a row's position.
    fn position_at(&self, row: usize) -> usize {
        StepHeader::COUNT + row * StepRow::COUNT + 1
    }
}

fn check_sequences(options: &Options, sequences: &[Sequence<'_>]) -> Result<()> {
    let (limits, block) = (&options.limits, options.shape.block);
    let counts = [
        ("the sequences of a batch", sequences.len() as u64, u64::from(limits.sequences)),
        (
            "the rows of a batch",
            sequences.iter().map(|sequence| u64::from(sequence.rows)).sum(),
            limits.rows.into(),
        ),
        (
            "the blocks of a batch to be indexed",
            sequences.iter().map(|sequence| sequence.index.len() as u64).sum(),
            MOST_INDEXED as u64,
        ),
    ];
    for (what, count, most) in counts {
        if count > most {
            return Err(Error::argument(what, count, format!("there may be {most}")));
        }
    }
    for (i, sequence) in sequences.iter().enumerate() {
        let Sequence { length, rows, blocks, index } = sequence;
        let wrong = |what: &str, value: String, limit: String| {
            Err(Error::argument(format!("{what} of sequence {i}"), value, limit))
        };
        if !(1..=limits.tokens).contains(length) {
            return wrong("the length", length.to_string(), format!("1 to {} fit", limits.tokens));
        }
        if rows > length {
            let limit = format!("it has {length} tokens");
            return wrong("the number of rows", rows.to_string(), limit);
        }
        let needed = length.div_ceil(block) as usize;
        if blocks.len() < needed {
            let limit = format!("{length} tokens need {needed} of {block}");
            return wrong("the block table", format!("{} blocks long", blocks.len()), limit);
        }
        let outside = blocks[..needed].iter().enumerate().find(|(_, b)| **b >= limits.cache_blocks);
        if let Some((logical, physical)) = outside {
            let limit = format!("the cache has {}", limits.cache_blocks);
            return wrong(&format!("physical block {logical}"), physical.to_string(), limit);
        }
        let sealed = length / block;
        if index.start > index.end || index.end > sealed {
            let limit = format!("{sealed} blocks are sealed");
            return wrong("what is to be indexed", format!("{index:?}"), limit);
        }
    }
    Ok(())
}

/// Checks a caller's lists; the longest one's tokens.
fn check_lists(options: &Options, positions: &[u32], lists: &[Vec<u32>]) -> Result<u32> {
    let (heads, block) = (options.shape.kv_heads as usize, options.shape.block);
    if lists.len() != positions.len() * heads {
        let limit = format!("{} rows of {heads} KV heads need one each", positions.len());
        return Err(Error::argument("the number of lists of tokens", lists.len(), limit));
    }
    for (i, list) in lists.iter().enumerate() {
        let (row, head) = (i / heads, i % heads);
        let own_block = positions[row] / block * block;
        let name = || format!("a token chosen for row {row} and KV head {head}");
        if let Some(late) = list.iter().find(|token| **token >= own_block) {
            let limit =
                format!("the row's own block, which is attended anyway, begins at {own_block}");
            return Err(Error::argument(name(), late, limit));
        }
        if let Some(pair) = list.windows(2).find(|pair| pair[0] >= pair[1]) {
            let limit = format!("{} is listed before it, and they must ascend", pair[0]);
            return Err(Error::argument(name(), pair[1], limit));
        }
    }
    Ok(lists.iter().map(Vec::len).max().unwrap_or(0) as u32)
}

// Lists of the same length, as the kernel reads them.
fn fill_up(
    options: &Options,
    sequences: &[Sequence<'_>],
    lists: &[Vec<u32>],
    kept: u32,
) -> Vec<u32> {
    let (heads, block) = (options.shape.kv_heads as usize, options.shape.block);
    // A token of the block that is nowhere.
    let nowhere = sequences.iter().flat_map(|sequence| {
        let token = sequence.length.div_ceil(block) * block;
        std::iter::repeat_n(token, sequence.rows as usize * heads)
    });
    let filled = lists.iter().zip(nowhere).flat_map(|(list, nowhere)| {
        let rest = kept as usize - list.len();
        list.iter().copied().chain(std::iter::repeat_n(nowhere, rest))
    });
    filled.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::{BlockScorer, KvLayout, Shape, TokenScorer};
    use crate::operator::Limits;

    fn options() -> Options {
        let limits = Limits { rows: 4, sequences: 3, tokens: 200, cache_blocks: 20 };
        let shape = Shape { block: 16, ..Shape::new(2, 3, 64, true) };
        Options {
            shape,
            limits,
            layout: KvLayout::Joined,
            query_stride: 384,
            segment_blocks: 20,
            workgroups: 16,
        }
    }

    const TABLE: [u32; 6] = [3, 1, 4, 15, 9, 2];

    fn sequence(length: u32, rows: u32) -> Sequence<'static> {
        Sequence { length, rows, blocks: &TABLE, index: 0..0 }
    }

    fn plan(sequences: &[Sequence<'_>], select: Select<'_>) -> Result<Plan> {
        Plan::new(&options(), &Batch { sequences, select })
    }

    fn budget() -> Budget {
        let blocks = Blocks::Count(2);
        Budget { blocks, tokens: 9, sink_blocks: 1, recent_blocks: 1, dense_below: 0 }
    }

    #[test]
    fn a_batch_is_refused_by_what_is_wrong_with_it() {
        let one = |sequence: Sequence<'_>| plan(&[sequence], Select::Dense);
        let two_level = |budget| plan(&[sequence(90, 1)], Select::TwoLevel(TwoLevel::new(budget)));
        for (planned, message) in [
            (plan(&vec![sequence(1, 1); 4], Select::Dense), "the sequences of a batch is 4, but"),
            (plan(&vec![sequence(9, 2); 3], Select::Dense), "the rows of a batch is 6, but"),
            (one(sequence(0, 0)), "the length of sequence 0 is 0, but 1 to 200 fit"),
            (one(sequence(201, 1)), "the length of sequence 0 is 201, but"),
            (one(sequence(2, 3)), "the number of rows of sequence 0 is 3, but it has 2 tokens"),
            (one(sequence(97, 1)), "the block table of sequence 0 is 6 blocks long, but 97 tokens"),
            (
                one(Sequence { blocks: &[3, 20], ..sequence(17, 1) }),
                "physical block 1 of sequence 0 is 20, but the cache has 20",
            ),
            (
                one(Sequence { index: 0..2, ..sequence(31, 1) }),
                "what is to be indexed of sequence 0 is 0..2, but 1 blocks are sealed",
            ),
            (two_level(Budget { tokens: 0, ..budget() }), "the budget of tokens is 0, but"),
            (
                two_level(Budget { blocks: Blocks::Count(0), ..budget() }),
                "the budget of blocks is 0",
            ),
            (
                two_level(Budget { blocks: Blocks::Percent(1000.0), ..budget() }),
                "the budget of blocks is 1000%, but",
            ),
            (
                two_level(Budget { blocks: Blocks::Percent(f32::NAN), ..budget() }),
                "the budget of blocks is NaN%, but",
            ),
        ] {
            let error = planned.unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
        let tokens = |lists: &[Vec<u32>]| plan(&[sequence(40, 1)], Select::Tokens(lists));
        tokens(&[vec![0, 31], vec![]]).unwrap();
        for (planned, message) in [
            (tokens(&[vec![0]]), "the number of lists of tokens is 1, but 1 rows of 2"),
            (tokens(&[vec![], vec![32]]), "chosen for row 0 and KV head 1 is 32, but"),
            (tokens(&[vec![5, 5], vec![]]), "5 is listed before it"),
        ] {
            let error = planned.unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn every_step_fits_the_words_set_aside() {
        let table: Vec<u32> = (0..13).collect();
        let full = |rows| Sequence { length: 200, rows, blocks: &table, index: 0..12 };
        let lists = vec![(0..192).collect::<Vec<u32>>(); 8];
        for select in
            [Select::Dense, Select::TwoLevel(TwoLevel::new(budget())), Select::Tokens(&lists)]
        {
            let plan = plan(&[full(2), full(1), full(1)], select).unwrap();
            assert!(plan.step.words.len() as u64 * 4 <= options().step().bytes);
        }
    }

    #[test]
    fn lists_are_filled_up_with_tokens_of_no_block() {
        let lists = [vec![1, 2, 17], vec![], vec![0], vec![3, 4]];
        let plan = plan(&[sequence(40, 1), sequence(20, 1)], Select::Tokens(&lists)).unwrap();
        assert_eq!(plan.tokens_kept(), 3);
        assert_eq!(plan.given, [1, 2, 17, 48, 48, 48, 0, 32, 32, 3, 4, 32]);
        assert!(plan.kind.suits(Selector::Caller) && !plan.kind.suits(Selector::Dense));
    }

    #[test]
    fn a_row_attends_sink_choice_and_recent_tokens() {
        let select = Select::TwoLevel(TwoLevel::new(budget()));
        let plan = plan(&[sequence(90, 1)], select).unwrap();
        let row = plan.budgets()[0];
        assert_eq!((row.sink, row.recent_first, row.tokens, row.attended), (1, 4, 9, 16 + 26 + 9));
        let chosen: Vec<u32> = (20..38).collect();
        let attended = plan.attended(0, 1, &chosen);
        assert_eq!(attended.len() as u32, row.attended);
        assert_eq!(attended[15..26], [15, 29, 30, 31, 32, 33, 34, 35, 36, 37, 64]);
        let scorers = |blocks, tokens| Selector::TwoLevel { blocks, tokens };
        assert!(plan.kind.suits(scorers(BlockScorer::Codes, TokenScorer::Codes)));
        assert!(!plan.kind.suits(scorers(BlockScorer::MinMax, TokenScorer::Codes)));
    }
}
