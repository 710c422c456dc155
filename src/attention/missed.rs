//! How much of its attention a step may miss that attends what another chose.

use crate::{Error, Result, subject};
use serde::{Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// The largest share of a query head's attention mass that a `lagged` step may miss, by the scores of level 1: that of the blocks
/// which it chose and did not attend, of those that it should attend. A step that misses more is done again, and waits for them.
/// Kept in hundredths of a percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MostMissed(u16);

impl MostMissed {
    /// No limit: every step stands, as in the paper's rule.
    pub const ALL: Self = Self(10_000);
    /// Nothing: a step stands that attended all that it chose.
    pub const NONE: Self = Self(0);

    /// Whether there is a limit.
    pub fn is_limit(self) -> bool {
        self != Self::ALL
    }

    /// Whether a step that missed this share stands. What is not a number does not.
    pub(crate) fn allows(self, share: f32) -> bool {
        !self.is_limit() || share <= f32::from(self.0) / 10_000.0
    }
}

impl Default for MostMissed {
    /// What loses nothing that was measured (`docs/selection.md`).
    fn default() -> Self {
        Self(500)
    }
}

impl FromStr for MostMissed {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let limit = "it must be a share from 0% to 100% such as 5% or 0.5%, or off";
        let error = || Error::argument(subject::MISSED_MASS, text, limit);
        if text == "off" {
            return Ok(Self::ALL);
        }
        let share: f64 =
            text.strip_suffix('%').and_then(|t| t.trim().parse().ok()).ok_or_else(error)?;
        let hundredths = share * 100.0;
        // A share that is rounded to nothing, or to all, would be another rule.
        let is_kept = (hundredths - hundredths.round()).abs() < 1e-6;
        if !(0.0..=10_000.0).contains(&hundredths) || !is_kept {
            return Err(error());
        }
        Ok(Self(hundredths.round() as u16))
    }
}

impl fmt::Display for MostMissed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_limit() {
            true => write!(f, "{}%", f64::from(self.0) / 100.0),
            false => f.write_str("off"),
        }
    }
}

impl Serialize for MostMissed {
    /// A share, or nothing without a limit.
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        self.is_limit().then(|| f64::from(self.0) / 10_000.0).serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_shares_or_off() {
        for (text, shown) in
            [("5%", "5%"), ("0.5 %", "0.5%"), ("0%", "0%"), ("100%", "off"), ("off", "off")]
        {
            assert_eq!(text.parse::<MostMissed>().unwrap().to_string(), shown);
        }
        for bad in ["5", "", "%", "-1%", "101%", "nan%", "0.001%", "99.999%", "on"] {
            let message = bad.parse::<MostMissed>().unwrap_err().to_string();
            assert!(message.contains("such as 5%"), "{bad}: {message}");
        }
        assert_eq!("0%".parse::<MostMissed>().unwrap(), MostMissed::NONE);
    }

    #[test]
    fn what_is_missed_must_be_no_more() {
        let five: MostMissed = "5%".parse().unwrap();
        assert!(five.allows(0.0) && five.allows(0.049) && !five.allows(0.051));
        assert!(!five.allows(f32::NAN) && MostMissed::ALL.allows(f32::NAN));
        assert!(MostMissed::NONE.allows(0.0) && !MostMissed::NONE.allows(1e-30));
    }
}
