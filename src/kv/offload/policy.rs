//! The rule by which blocks are fetched: when they have to be there, and how eagerly. Pure.

use super::options::HostOptions;
use crate::attention::{MostMissed, Timing};
use crate::kv::Policy;

/// When chosen blocks have to be on the GPU, and what is fetched for a step to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchRule {
    /// When they have to be there.
    pub timing: Timing,
    /// How much a step may miss that does not wait.
    pub most_missed: MostMissed,
    /// Whether those of the next step are gathered while the GPU works on this one.
    pub overlaps: bool,
    patient: Policy,
}

impl FetchRule {
    /// The rule of a cache of so many head-blocks a block, each of `head_bytes` bytes.
    pub fn new(options: &HostOptions, heads: u64, head_bytes: u64) -> Self {
        let most = (options.most_fetched / head_bytes / heads).clamp(1, u64::from(u32::MAX)) as u32;
        let patient = Policy { patience: options.patience, most };
        let HostOptions { timing, most_missed, overlaps, .. } = *options;
        Self { timing, most_missed, overlaps, patient }
    }

    /// Whether what steps of this timing miss is weighed.
    pub fn weighs(&self) -> bool {
        self.timing.weighs(self.most_missed)
    }

    /// The limits of what a step fetches for the next one: only `resident` can do without it.
    pub fn ahead(&self) -> Policy {
        match self.timing {
            Timing::Exact | Timing::Lagged => Policy::default(),
            Timing::Resident => self.patient,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_resident_leaves_blocks_where_they_are() {
        let rule = |timing, most_fetched| {
            let options =
                HostOptions { timing, patience: 3, most_fetched, ..HostOptions::new(9, 0, 64) };
            FetchRule::new(&options, 8, 1024).ahead()
        };
        for timing in [Timing::Exact, Timing::Lagged] {
            assert_eq!(rule(timing, 1 << 20), Policy { patience: 1, most: u32::MAX });
        }
        // Of each KV head and layer its share, and one at least.
        assert_eq!(rule(Timing::Resident, 1 << 20), Policy { patience: 3, most: 128 });
        assert_eq!(rule(Timing::Resident, 1), Policy { patience: 3, most: 1 });
        assert_eq!(rule(Timing::Resident, u64::MAX).most, u32::MAX);
    }
}
