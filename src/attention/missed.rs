//! How much of its attention a step may miss that does not wait for what it chose.

use crate::{Error, Result, subject};
use serde::{Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// What a `lagged` or `resident` step may miss of its attention, by the scores of level 1: of a query head's mass in the blocks
/// that the step should attend the share in those that it chose and does not attend. A step that misses more is done again, and
/// waits for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MostMissed {
    /// The largest share of any query head: one that turns away from all that it has.
    of_a_head: Limit,
    /// The mean over layers and KV heads, each by its query head with the largest: many that turn a little.
    on_average: Limit,
}

/// A share in hundredths of a percent; all of it is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limit(u16);

impl Limit {
    const ALL: Self = Self(10_000);

    // What is not a number is too much.
    fn allows(self, share: f32) -> bool {
        self == Self::ALL || share <= f32::from(self.0) / 10_000.0
    }

    fn read(text: &str) -> Option<Self> {
        let share: f64 = text.trim().strip_suffix('%')?.trim().parse().ok()?;
        let hundredths = share * 100.0;
        // A share that is rounded to nothing, or to all, would be another rule.
        let is_kept = (hundredths - hundredths.round()).abs() < 1e-6;
        let is_share = (0.0..=10_000.0).contains(&hundredths) && is_kept;
        is_share.then(|| Self(hundredths.round() as u16))
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", f64::from(self.0) / 100.0)
    }
}

impl Serialize for Limit {
    /// A share; nothing without a limit.
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        (*self != Self::ALL).then(|| f64::from(self.0) / 10_000.0).serialize(serializer)
    }
}

impl MostMissed {
    /// No limit: every step stands, as in the paper's rule, which is `lagged`.
    pub const ALL: Self = Self { of_a_head: Limit::ALL, on_average: Limit::ALL };
    /// Nothing: a step stands that attended all that it chose.
    pub const NONE: Self = Self { of_a_head: Limit(0), on_average: Limit::ALL };

    /// Whether there is a limit.
    pub fn is_limit(self) -> bool {
        self != Self::ALL
    }

    /// Whether a step stands that missed these shares.
    pub(crate) fn allows(self, of_a_head: f32, on_average: f32) -> bool {
        self.of_a_head.allows(of_a_head) && self.on_average.allows(on_average)
    }
}

impl Default for MostMissed {
    /// What halves the loss of `lagged` for few steps done again (`docs/selection.md`).
    fn default() -> Self {
        Self { of_a_head: Limit(9_000), on_average: Limit::ALL }
    }
}

impl FromStr for MostMissed {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let limit = "it must be the share of a head, such as 80%, or that and the mean of all heads, such as 95%/28%, from 0% \
                     to 100%, or off";
        let read = || {
            let (of_a_head, on_average) = match text.split_once('/') {
                _ if text == "off" => return Some(Self::ALL),
                Some((head, mean)) => (Limit::read(head)?, Limit::read(mean)?),
                None => (Limit::read(text)?, Limit::ALL),
            };
            Some(Self { of_a_head, on_average })
        };
        read().ok_or_else(|| Error::argument(subject::MISSED_MASS, text, limit))
    }
}

impl fmt::Display for MostMissed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.is_limit(), self.on_average) {
            (false, _) => f.write_str("off"),
            (true, Limit::ALL) => self.of_a_head.fmt(f),
            (true, on_average) => write!(f, "{}/{on_average}", self.of_a_head),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_shares_or_off() {
        for (text, shown) in [
            ("5%", "5%"),
            ("0.5 %", "0.5%"),
            ("0%", "0%"),
            ("100%", "off"),
            ("off", "off"),
            ("95%/28%", "95%/28%"),
            ("100% / 2.5%", "100%/2.5%"),
            ("80%/100%", "80%"),
        ] {
            assert_eq!(text.parse::<MostMissed>().unwrap().to_string(), shown);
        }
        for bad in
            ["5", "", "%", "-1%", "101%", "nan%", "0.001%", "99.999%", "on", "5%/", "/5%", "5%/off"]
        {
            let message = bad.parse::<MostMissed>().unwrap_err().to_string();
            assert!(message.contains("such as 80%"), "{bad}: {message}");
        }
        assert_eq!("0%".parse::<MostMissed>().unwrap(), MostMissed::NONE);
    }

    #[test]
    fn what_is_missed_must_be_no_more() {
        let both: MostMissed = "50%/5%".parse().unwrap();
        assert!(both.allows(0.0, 0.0) && both.allows(0.49, 0.049));
        assert!(!both.allows(0.51, 0.01) && !both.allows(0.4, 0.051));
        assert!(!both.allows(f32::NAN, 0.0) && !both.allows(0.0, f32::NAN));
        assert!(MostMissed::ALL.allows(f32::NAN, 1.0));
        assert!(MostMissed::NONE.allows(0.0, 0.0) && !MostMissed::NONE.allows(1e-30, 0.0));
    }
}
