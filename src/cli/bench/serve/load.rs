//! When requests are sent, and which of them are dropped. Pure.

use super::super::random::Random;

/// The streams of a seed's draws; those from [`TEXTS`] on are of texts.
const ARRIVALS: u64 = 0;
const DROPS: u64 = 1;
pub const TEXTS: u64 = 2;

/// What the next request waits for.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// So many clients, each for the answer to the one before.
    Clients(u32),
    /// Nothing: so many come a second.
    Rate(f64),
}

/// How long an answer is to be.
#[derive(Clone, Copy, Debug)]
pub struct Length {
    /// The most tokens.
    pub most: u32,
    /// Whether it has all of these, wherever the model would end it.
    pub ignores_eos: bool,
}

/// Requests, and how they come.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub requests: usize,
    pub pace: Pace,
    pub length: Length,
    /// Share that is dropped amid the answer.
    pub cancel: f64,
    pub seed: u64,
}

impl Load {
    /// Seconds from the begin at which each comes, ascending: at a rate, Poisson's arrivals; else at once, if there is a client.
    pub fn arrivals(&self) -> Vec<f64> {
        let Pace::Rate(rate) = self.pace else { return vec![0.0; self.requests] };
        let mut random = Random::new(self.seed, ARRIVALS);
        let mut at = 0.0;
        let mut next = || {
            at -= (1.0 - random.share()).ln() / rate;
            at
        };
        (0..self.requests).map(|_| next()).collect()
    }

    /// After how many pieces of its answer each is dropped, if it is.
    pub fn drops(&self) -> Vec<Option<usize>> {
        let mut random = Random::new(self.seed, DROPS);
        let count = (self.requests as f64 * self.cancel).round() as usize;
        let mut order: Vec<usize> = (0..self.requests).collect();
        random.pick(&mut order, count);
        let mut drops = vec![None; self.requests];
        for &request in &order[..count] {
            // Of the last piece on there is nothing left to drop.
            let most = (self.length.most as usize - 1).max(1);
            drops[request] = Some(1 + random.below(most));
        }
        drops
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(pace: Pace, cancel: f64, most: u32) -> Load {
        let length = Length { most, ignores_eos: false };
        Load { requests: 4000, pace, length, cancel, seed: 7 }
    }

    #[test]
    fn arrivals_are_poissons() {
        let at = load(Pace::Rate(50.0), 0.0, 9).arrivals();
        assert_eq!(at, load(Pace::Rate(50.0), 0.0, 9).arrivals());
        assert!(at.is_sorted() && at[0] > 0.0);
        let gaps: Vec<f64> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        // Exponential gaps of mean 1/50: their deviation is as large, so that of a mean of 4,000 is 1.6% of it; three of these.
        assert!((mean * 50.0 - 1.0).abs() < 0.048, "{mean}");
        let longer = gaps.iter().filter(|gap| **gap > 1.0 / 50.0).count() as f64;
        // Of which e^-1 are longer than the mean: three deviations of a binomial share are 0.023.
        assert!((longer / gaps.len() as f64 - (-1.0_f64).exp()).abs() < 0.023, "{longer}");
        assert!(load(Pace::Clients(3), 0.0, 9).arrivals().iter().all(|at| *at == 0.0));
    }

    #[test]
    fn a_share_is_dropped_amid_the_answer() {
        let drops = load(Pace::Clients(1), 0.25, 9).drops();
        assert_eq!(drops, load(Pace::Clients(1), 0.25, 9).drops());
        let mut after: Vec<usize> = drops.iter().flatten().copied().collect();
        assert_eq!(after.len(), 1000);
        // Not the first ones, but some everywhere.
        assert!(drops.chunks(100).all(|some| some.iter().flatten().count() > 5));
        after.sort_unstable();
        after.dedup();
        assert_eq!(after, (1..9).collect::<Vec<_>>());
        assert!(load(Pace::Clients(1), 1.0, 1).drops().iter().all(|drop| *drop == Some(1)));
        assert!(load(Pace::Clients(1), 0.0, 9).drops().iter().all(Option::is_none));
    }
}
