//! What selects blocks and tokens.

use crate::{Error, Result, subject};
use std::fmt;
use std::str::FromStr;

/// What level 1 ranks blocks by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BlockScorer {
    /// The best token of each block under the codes of the index.
    #[default]
    Codes,
    /// The upper bound that the block's smallest and largest keys set, summed over the query group: AsyncTLS
    /// (arXiv 2604.07815), after Quest (arXiv 2406.10774).
    MinMax,
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

impl BlockScorer {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Codes, Self::MinMax, Self::None, Self::Oracle];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Codes => "codes",
            Self::MinMax => "minmax",
            Self::None => "none",
            Self::Oracle => "oracle",
        }
    }
}

impl TokenScorer {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Codes, Self::None, Self::Oracle];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Codes => "codes",
            Self::None => "none",
            Self::Oracle => "oracle",
        }
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
        Self::ALL.into_iter().find(|scorer| scorer.name() == text).ok_or_else(|| {
            Error::argument(subject::BLOCK_SCORER, text, "it must be codes, minmax, none or oracle")
        })
    }
}

impl FromStr for TokenScorer {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|scorer| scorer.name() == text).ok_or_else(|| {
            Error::argument(subject::TOKEN_SCORER, text, "it must be codes, none or oracle")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back() {
        for scorer in BlockScorer::ALL {
            assert_eq!(scorer.to_string().parse::<BlockScorer>().unwrap(), scorer);
        }
        for scorer in TokenScorer::ALL {
            assert_eq!(scorer.to_string().parse::<TokenScorer>().unwrap(), scorer);
        }
        let message = "best".parse::<BlockScorer>().unwrap_err().to_string();
        assert!(message.starts_with("the block scorer is best, but"), "{message}");
        assert!("minmax".parse::<TokenScorer>().is_err());
    }
}
