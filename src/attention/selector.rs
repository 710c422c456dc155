//! What selects blocks and tokens: a table with a row for each scorer, which everything else follows.

use super::Summary;
use crate::{Error, Result, subject};
use std::fmt;
use std::str::FromStr;

/// What level 1 ranks blocks by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BlockScorer {
    /// The exponentials of the tokens' logits under the codes of the index, summed.
    #[default]
    Codes,
    /// The upper bound that the block's smallest and largest keys set, summed over the query group: AsyncTLS
    /// (arXiv 2604.07815), after Quest (arXiv 2406.10774).
    MinMax,
    /// The product with the block's mean key, and what keys that lie some standard deviations from it may add, dimension by
    /// dimension; summed over the query group.
    MeanStd,
    /// Every block is kept: tokens are selected from all of them.
    None,
    /// The block's exact attention mass, from its full keys: what no index can beat at this budget.
    Oracle,
}

/// What level 2 ranks the tokens of the kept blocks by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TokenScorer {
    /// The codes of the index.
    #[default]
    Codes,
    /// Every token of the kept blocks is attended, as in Quest.
    None,
    /// The exact logit, from the full key.
    Oracle,
}

/// What a scorer reads of the cache.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reads {
    /// Nothing: everything is kept.
    Nothing,
    /// The codes of the index.
    Codes,
    /// A summary of each block.
    Summary(&'static Summary),
    /// The keys themselves.
    Keys,
}

/// How a KV head's blocks are ranked by their scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rank {
    /// By the softmax over blocks of each query head's scores, averaged over the group.
    Softmax,
    /// By the one score of the group, which is stored where its first query head's would be.
    Plain,
}

/// A block scorer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockRow {
    /// Which.
    pub scorer: BlockScorer,
    /// Its name.
    pub name: &'static str,
    /// What it ranks by, in a few words.
    pub about: &'static str,
    /// What it reads: of this follow the kernels that build and score, and the memory that is kept.
    pub reads: Reads,
    /// How its scores rank.
    pub rank: Rank,
}

/// A token scorer. Their scores rank by exponentials, divided as [`Divisor`](super::Divisor) says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenRow {
    /// Which.
    pub scorer: TokenScorer,
    /// Its name.
    pub name: &'static str,
    /// What it ranks by, in a few words.
    pub about: &'static str,
    /// What it reads; no summary, which knows no tokens.
    pub reads: Reads,
}

/// In the order of the variants.
const BLOCK_ROWS: [BlockRow; 5] = [
    BlockRow {
        scorer: BlockScorer::Codes,
        name: "codes",
        about: "the index",
        reads: Reads::Codes,
        rank: Rank::Softmax,
    },
    BlockRow {
        scorer: BlockScorer::MinMax,
        name: "minmax",
        about: "bounds of each block's keys",
        reads: Reads::Summary(&Summary {
            name: "bounds",
            rows: 2,
            summarise: "lib/summarise_bounds.wgsl",
            fold: "lib/fold_bounds.wgsl",
            constants: &[],
        }),
        rank: Rank::Plain,
    },
    BlockRow {
        scorer: BlockScorer::MeanStd,
        name: "mean-std",
        about: "mean and standard deviation of each block's keys",
        reads: Reads::Summary(&Summary {
            name: "moments",
            rows: 2,
            summarise: "lib/summarise_moments.wgsl",
            fold: "lib/fold_moments.wgsl",
            constants: &[("DEVIATIONS", BlockScorer::MEAN_STD_DEVIATIONS)],
        }),
        rank: Rank::Plain,
    },
    BlockRow {
        scorer: BlockScorer::None,
        name: "none",
        about: "keep every block",
        reads: Reads::Nothing,
        rank: Rank::Softmax,
    },
    BlockRow {
        scorer: BlockScorer::Oracle,
        name: "oracle",
        about: "exact attention mass; slow",
        reads: Reads::Keys,
        rank: Rank::Softmax,
    },
];

/// In the order of the variants.
const TOKEN_ROWS: [TokenRow; 3] = [
    TokenRow { scorer: TokenScorer::Codes, name: "codes", about: "the index", reads: Reads::Codes },
    TokenRow {
        scorer: TokenScorer::None,
        name: "none",
        about: "keep every token of the blocks",
        reads: Reads::Nothing,
    },
    TokenRow {
        scorer: TokenScorer::Oracle,
        name: "oracle",
        about: "exact logits; slow",
        reads: Reads::Keys,
    },
];

impl BlockScorer {
    /// How many standard deviations from the mean a key counts for `mean-std`: what kept most attention mass of 0 to 2
    /// (`docs/selection.md`).
    pub(crate) const MEAN_STD_DEVIATIONS: f32 = 1.5;

    /// All of them.
    pub fn all() -> impl DoubleEndedIterator<Item = Self> + ExactSizeIterator {
        BLOCK_ROWS.iter().map(|row| row.scorer)
    }

    /// Its row of the table.
    #[cfg_attr(feature = "conformance", visibility::make(pub))]
    pub(crate) fn row(self) -> &'static BlockRow {
        &BLOCK_ROWS[self as usize]
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// What it reads.
    #[cfg_attr(feature = "conformance", visibility::make(pub))]
    pub(crate) fn reads(self) -> Reads {
        self.row().reads
    }

    /// The summary that it reads, if it reads one.
    pub fn summary(self) -> Option<&'static Summary> {
        match self.reads() {
            Reads::Summary(summary) => Some(summary),
            Reads::Nothing | Reads::Codes | Reads::Keys => None,
        }
    }

    /// Every summary that one of these reads, once, in the order of the table.
    pub(crate) fn summaries(scorers: &[Self]) -> Vec<&'static Summary> {
        Self::all().filter(|scorer| scorers.contains(scorer)).filter_map(Self::summary).collect()
    }
}

impl TokenScorer {
    /// All of them.
    pub fn all() -> impl DoubleEndedIterator<Item = Self> + ExactSizeIterator {
        TOKEN_ROWS.iter().map(|row| row.scorer)
    }

    /// Its row of the table.
    #[cfg_attr(feature = "conformance", visibility::make(pub))]
    pub(crate) fn row(self) -> &'static TokenRow {
        &TOKEN_ROWS[self as usize]
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// What it reads.
    #[cfg_attr(feature = "conformance", visibility::make(pub))]
    pub(crate) fn reads(self) -> Reads {
        self.row().reads
    }
}

impl fmt::Display for BlockScorer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for TokenScorer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for BlockScorer {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::all().find(|scorer| scorer.name() == text).ok_or_else(|| {
            let limit = format!("it must be {}", one_of(Self::all().map(Self::name)));
            Error::argument(subject::BLOCK_SCORER, text, limit)
        })
    }
}

impl FromStr for TokenScorer {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::all().find(|scorer| scorer.name() == text).ok_or_else(|| {
            let limit = format!("it must be {}", one_of(Self::all().map(Self::name)));
            Error::argument(subject::TOKEN_SCORER, text, limit)
        })
    }
}

// a, b or c
fn one_of(names: impl ExactSizeIterator<Item = &'static str>) -> String {
    let last = names.len() - 1;
    let mut list = String::new();
    for (i, name) in names.enumerate() {
        list += if i == 0 {
            ""
        } else if i == last {
            " or "
        } else {
            ", "
        };
        list += name;
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_in_the_order_of_variants() {
        for (i, row) in BLOCK_ROWS.iter().enumerate() {
            assert_eq!(row.scorer as usize, i);
            // Only what is ranked plainly may leave the scores of other heads unwritten.
            assert_eq!(row.scorer.summary().is_some(), row.rank == Rank::Plain, "{}", row.name);
        }
        for (i, row) in TOKEN_ROWS.iter().enumerate() {
            assert_eq!(row.scorer as usize, i);
            assert!(!matches!(row.reads, Reads::Summary(_)), "{}", row.name);
        }
    }

    #[test]
    fn names_parse_back() {
        for scorer in BlockScorer::all() {
            assert_eq!(scorer.to_string().parse::<BlockScorer>().unwrap(), scorer);
        }
        for scorer in TokenScorer::all() {
            assert_eq!(scorer.to_string().parse::<TokenScorer>().unwrap(), scorer);
        }
        let message = "best".parse::<BlockScorer>().unwrap_err().to_string();
        assert!(
            message.starts_with("the block scorer is best, but it must be codes, "),
            "{message}"
        );
        assert!(message.ends_with(", none or oracle"), "{message}");
        let message = "minmax".parse::<TokenScorer>().unwrap_err().to_string();
        assert!(message.ends_with("it must be codes, none or oracle"), "{message}");
    }

    #[test]
    fn what_is_kept_for_scorers_is_kept_once_and_in_one_order() {
        let all: Vec<BlockScorer> = BlockScorer::all().collect();
        let summaries = BlockScorer::summaries(&all);
        let backwards: Vec<BlockScorer> = BlockScorer::all().rev().chain(all).collect();
        assert_eq!(BlockScorer::summaries(&backwards), summaries);
        for (i, summary) in summaries.iter().enumerate() {
            assert!(
                summaries[..i].iter().all(|other| other.name != summary.name),
                "{}",
                summary.name
            );
        }
        assert!(BlockScorer::summaries(&[BlockScorer::Codes, BlockScorer::Oracle]).is_empty());
    }
}
