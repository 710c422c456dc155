//! The families of tasks.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result, subject};

/// A family of tasks. The four kinds of needles (`niah`: needle in a haystack) are sentences that
/// give a key a number of seven digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// One needle.
    NiahSingle,
    /// One needle among three with other keys.
    NiahMultikey,
    /// Four needles with the same key, all of them asked for.
    NiahMultivalue,
    /// Four needles with different keys, all of them asked for.
    NiahMultiquery,
    /// A chain of five assignments: which variables hold the first one's value?
    VariableTracking,
    /// The ten words of a list that occur more often than all others.
    CommonWords,
    /// The three most frequent of coded words whose frequencies follow the zeta distribution.
    FrequentWords,
}

impl Task {
    /// Every family.
    pub const ALL: [Self; 7] = [
        Self::NiahSingle,
        Self::NiahMultikey,
        Self::NiahMultivalue,
        Self::NiahMultiquery,
        Self::VariableTracking,
        Self::CommonWords,
        Self::FrequentWords,
    ];

    /// Tokens that RULER leaves for the answer; a prompt's length includes them.
    pub fn answer_tokens(self) -> u32 {
        match self {
            Self::NiahSingle | Self::NiahMultikey | Self::NiahMultivalue | Self::NiahMultiquery => {
                128
            }
            Self::VariableTracking => 30,
            Self::CommonWords => 120,
            Self::FrequentWords => 50,
        }
    }

    /// Whether a prompt has a needle, so that [`Spec::depth`](super::Spec::depth) changes it; tasks about words have none.
    pub fn has_needle(self) -> bool {
        !matches!(self, Self::CommonWords | Self::FrequentWords)
    }

    fn name(self) -> &'static str {
        match self {
            Self::NiahSingle => "niah-single",
            Self::NiahMultikey => "niah-multikey",
            Self::NiahMultivalue => "niah-multivalue",
            Self::NiahMultiquery => "niah-multiquery",
            Self::VariableTracking => "variable-tracking",
            Self::CommonWords => "common-words",
            Self::FrequentWords => "frequent-words",
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Task {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|task| task.name() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::argument(
                subject::TASK,
                format!("{text:?}"),
                format!("it must be one of {names}"),
            )
        })
    }
}
