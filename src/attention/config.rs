//! The attention of a decode step: dense, or by budget and scorers.

#[cfg(feature = "engine")]
use super::MostMissed;
use super::{BlockScorer, Divisor, Reads, TokenScorer};
use crate::{Error, Result, subject};
use serde::Serialize;
use std::fmt;
use std::str::FromStr;

/// Dense or two-level attention of decode steps. Prefill is always dense.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Attention {
    /// Every token.
    Dense,
    /// Sink, recent window, and the tokens that two levels of selection choose.
    TwoLevel(TwoLevel),
}

/// Two-level attention: how much is attended, and what selects it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TwoLevel {
    /// How much.
    pub budget: Budget,
    /// The rank of blocks in level 1.
    pub block_scorer: BlockScorer,
    /// The rank of tokens in level 2.
    pub token_scorer: TokenScorer,
}

impl From<Budget> for Attention {
    /// Two-level attention with the default scorers.
    fn from(budget: Budget) -> Self {
        Self::TwoLevel(TwoLevel::new(budget))
    }
}

impl TwoLevel {
    /// A budget with the default scorers.
    pub fn new(budget: Budget) -> Self {
        let (block_scorer, token_scorer) = (BlockScorer::default(), TokenScorer::default());
        Self { budget, block_scorer, token_scorer }
    }

    /// What makes ranks of its token scores.
    #[cfg_attr(feature = "conformance", visibility::make(pub))]
    pub(crate) fn divisor(&self) -> Divisor {
        Divisor::of(self.block_scorer, self.token_scorer)
    }

    /// The budget as the scorers leave it: one that keeps everything has no limit.
    pub(crate) fn effective_budget(&self) -> Budget {
        let mut budget = self.budget;
        if self.block_scorer.reads() == Reads::Nothing {
            budget.blocks = Blocks::Percent(100.0);
        }
        if self.token_scorer.reads() == Reads::Nothing {
            budget.tokens = u32::MAX;
        }
        budget
    }
}

/// How many blocks level 1 keeps: a number, or a share of the sealed blocks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Blocks {
    /// So many blocks.
    Count(u32),
    /// So many percent of the sealed blocks, rounded up.
    Percent(f32),
}

impl FromStr for Blocks {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let limit =
            "it must be a number of blocks from 1, or a share such as 25% from above 0% to 100%";
        let error = || Error::argument(subject::BLOCKS, text, limit);
        match text.strip_suffix('%') {
            Some(share) => {
                let share: f32 = share.trim().parse().map_err(|_| error())?;
                if share > 0.0 && share <= 100.0 { Ok(Self::Percent(share)) } else { Err(error()) }
            }
            None => match text.parse() {
                Ok(count) if count > 0 => Ok(Self::Count(count)),
                _ => Err(error()),
            },
        }
    }
}

impl fmt::Display for Blocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Percent(share) => write!(f, "{share}%"),
        }
    }
}

/// When the blocks that level 1 chooses have to be on the GPU, where they do not all stay there (arXiv 2604.07815 has the
/// second rule).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Timing {
    /// Before they are attended: the step waits for what is missing.
    Exact,
    /// In the next step, which attends among the blocks that this one chose.
    Lagged,
    /// Whenever they have come: a step attends among the best of the blocks that are there.
    Resident,
}

#[cfg(feature = "engine")]
impl Timing {
    /// Whether what its steps miss is weighed, where so much may be missed: those that wait miss nothing.
    pub fn weighs(self, most_missed: MostMissed) -> bool {
        self != Self::Exact && most_missed.is_limit()
    }
}

/// The budgets of two-level attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    /// Blocks that level 1 keeps.
    pub blocks: Blocks,
    /// Tokens that level 2 keeps.
    pub tokens: u32,
    /// Blocks at the start that are always attended.
    pub sink_blocks: u32,
    /// Sealed blocks before the open one that are always attended.
    pub recent_blocks: u32,
    /// At this many tokens of context or fewer, decode is dense.
    pub dense_below: u32,
}

impl Budget {
    /// The default for a model with this context length: section 2.1 of the algorithm, where a fixed 128 blocks would
    /// filter nothing at 8k.
    pub fn for_context(context_length: u32) -> Self {
        let small = context_length <= 16 * 1024;
        Self {
            blocks: if small { Blocks::Count(16) } else { Blocks::Count(128) },
            tokens: if small { 256 } else { 1024 },
            sink_blocks: 1,
            recent_blocks: 4,
            dense_below: if small { 1024 } else { 8192 },
        }
    }

    /// Checks the budgets.
    ///
    /// # Errors
    /// [`Error::Argument`] naming what it is, its value and the limit.
    pub fn validate(&self) -> Result<()> {
        if self.tokens == 0 {
            return Err(Error::argument(subject::TOKENS, 0, "at least one token must be kept"));
        }
        if let Blocks::Count(0) = self.blocks {
            return Err(Error::argument(subject::BLOCKS, 0, "at least one block must be kept"));
        }
        // A share beyond the whole would be more blocks than there is room for.
        if let Blocks::Percent(share) = self.blocks
            && !(share > 0.0 && share <= 100.0)
        {
            let limit = "a share is above 0% and at most 100%";
            return Err(Error::argument(subject::BLOCKS, self.blocks, limit));
        }
        Ok(())
    }

    /// Blocks kept when `sealed` blocks lie before the open one.
    #[cfg_attr(feature = "conformance", visibility::make(pub))]
    pub(crate) fn blocks_kept(&self, sealed: u32) -> u32 {
        match self.blocks {
            Blocks::Count(count) => count.min(sealed.max(1)),
            Blocks::Percent(share) => {
                ((f64::from(sealed) * f64::from(share) / 100.0).ceil() as u32).max(1)
            }
        }
    }

    /// The numbers of blocks and tokens that a row at `position` attends, in blocks of `block` tokens.
    #[cfg_attr(feature = "conformance", visibility::make(pub))]
    pub(crate) fn row(&self, position: u32, block: u32) -> RowBudget {
        RowBudget::new(
            position,
            block,
            self.blocks_kept(position / block),
            self.tokens,
            (self.sink_blocks, self.recent_blocks),
        )
    }
}

/// The budget of one row, from its position alone: the twin of `shaders/lib/budget.wgsl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowBudget {
    /// Sealed blocks: those before the block that holds the row's own token.
    pub sealed: u32,
    /// Sink blocks, none of them in the recent window too.
    pub sink: u32,
    /// The first block of the recent window.
    pub recent_first: u32,
    /// Blocks that level 1 chooses.
    pub blocks: u32,
    /// Tokens that level 2 chooses.
    pub tokens: u32,
    /// Tokens attended in all, the row's own included.
    pub attended: u32,
}

impl RowBudget {
    /// The budget of a row at `position`, in blocks of `block` tokens; `always` are the sink blocks and the recent ones.
    #[cfg_attr(feature = "conformance", visibility::make(pub))]
    pub(crate) fn new(
        position: u32,
        block: u32,
        blocks_kept: u32,
        tokens_kept: u32,
        always: (u32, u32),
    ) -> Self {
        let (sink_blocks, recent_blocks) = always;
        let sealed = position / block;
        let recent_first = sealed - sealed.min(recent_blocks);
        let sink = sink_blocks.min(recent_first);
        let blocks = blocks_kept.min(recent_first - sink);
        let tokens = tokens_kept.min(blocks * block);
        let attended = sink * block + position + 1 - recent_first * block + tokens;
        Self { sealed, sink, recent_first, blocks, tokens, attended }
    }

    /// Whether level 1 has more blocks to choose from than it keeps.
    pub(crate) fn ranks_blocks(&self) -> bool {
        self.blocks < self.recent_first - self.sink
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_a_count_or_a_share() {
        assert_eq!("16".parse::<Blocks>().unwrap(), Blocks::Count(16));
        assert_eq!("12.5%".parse::<Blocks>().unwrap(), Blocks::Percent(12.5));
        for bad in ["0", "-1", "0%", "101%", "NaN%", "", "%", "many"] {
            let message = bad.parse::<Blocks>().unwrap_err().to_string();
            assert!(message.starts_with("the budget of blocks is"), "{message}");
        }
    }

    #[test]
    fn a_share_is_of_the_whole_at_most() {
        let with = |blocks| Budget { blocks, ..Budget::for_context(4096) };
        with(Blocks::Percent(100.0)).validate().unwrap();
        for share in [0.0, -1.0, 100.5, f32::NAN, f32::INFINITY] {
            let message = with(Blocks::Percent(share)).validate().unwrap_err().to_string();
            assert!(message.starts_with("the budget of blocks is"), "{message}");
        }
    }

    #[test]
    fn a_row_attends_each_token_once_and_never_more_than_there_are() {
        for position in 0..3000 {
            let row = RowBudget::new(position, 64, 16, 256, (1, 4));
            assert!(row.attended <= position + 1, "{position}");
            assert!(row.sink <= row.recent_first);
            if position < 6 * 64 {
                assert_eq!(
                    row.attended,
                    position + 1 - (row.recent_first - row.sink) * 64 + row.tokens
                );
            }
        }
        // Everything is attended while sink, recent and budget cover it.
        assert_eq!(RowBudget::new(5 * 64 + 63, 64, 16, 256, (1, 4)).attended, 6 * 64);
        let row = RowBudget::new(4000, 64, 16, 256, (1, 4));
        assert_eq!(
            (row.sealed, row.recent_first, row.sink, row.blocks, row.tokens),
            (62, 58, 1, 16, 256)
        );
        assert_eq!(row.attended, 64 + 256 + 33 + 256);
    }
}
