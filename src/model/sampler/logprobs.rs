//! How likely a model finds tokens, whatever is chosen of them.

use super::{Candidate, sort_first, usable};

/// A token, and the natural logarithm of its probability.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Logprob {
    /// The token.
    pub token: u32,
    /// At most 0; minus infinity for one that the model never says.
    pub logprob: f64,
}

/// The log-probabilities behind a token: of the model's own distribution, before penalties, temperature and filters.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprobs {
    /// The token that was chosen.
    pub chosen: Logprob,
    /// The likeliest tokens, the likeliest first, of equals the one with the lower id.
    pub likeliest: Vec<Logprob>,
}

impl Logprobs {
    /// Those of a token that was chosen, and of the `count` likeliest ones. The logits are numbers.
    pub(crate) fn new(logits: &[f32], chosen: u32, count: usize) -> Self {
        let mut candidates: Vec<Candidate> =
            usable(logits).map(|(id, logit)| Candidate { id, logit, weight: 1.0 }).collect();
        let best = candidates.iter().map(|one| one.logit).fold(f32::NEG_INFINITY, f32::max);
        // Relative to the best, so that nothing overflows; the best itself may be infinite.
        let below = |logit: f32| {
            if logit == best { 0.0 } else { f64::from(logit) - f64::from(best) }
        };
        let sum: f64 = candidates.iter().map(|one| below(one.logit).exp()).sum();
        let of = |token: u32, logit: f32| Logprob { token, logprob: below(logit) - sum.ln() };
        sort_first(&mut candidates, count);
        candidates.truncate(count);
        let logit = logits.get(chosen as usize).copied().unwrap_or(f32::NEG_INFINITY);
        Self {
            chosen: of(chosen, logit),
            likeliest: candidates.iter().map(|one| of(one.id, one.logit)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // The definition: every exponential on its own, the sum from the smallest up.
    fn twin(logits: &[f32]) -> Vec<f64> {
        let best = logits.iter().copied().map(f64::from).fold(f64::NEG_INFINITY, f64::max);
        let mut shares: Vec<f64> =
            logits.iter().map(|logit| (f64::from(*logit) - best).exp()).collect();
        let all = shares.clone();
        shares.sort_by(f64::total_cmp);
        let sum: f64 = shares.iter().sum();
        all.iter().map(|share| (share / sum).ln()).collect()
    }

    proptest! {
        #[test]
        fn they_are_the_twins(logits in prop::collection::vec(-40f32..40.0, 1..300), at: prop::sample::Index, count in 0usize..25) {
            let chosen = at.index(logits.len());
            let found = Logprobs::new(&logits, chosen as u32, count);
            let twin = twin(&logits);
            // An exponential and a sum of n terms round to (n + 2) parts in 2^53, and so does the twin; the logarithm takes
            // such an error as it is, and its own 40 + ln 300 at most in size.
            let near = |a: f64, b: f64| (a - b).abs() <= (2.0 * 302.0 + 2.0 * 90.0) * f64::EPSILON;
            prop_assert!(near(found.chosen.logprob, twin[chosen]), "{} is not {}", found.chosen.logprob, twin[chosen]);
            let mut order: Vec<usize> = (0..logits.len()).collect();
            // Stable: of equals the lower id first.
            order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
            order.truncate(count);
            let ids: Vec<usize> = found.likeliest.iter().map(|one| one.token as usize).collect();
            prop_assert_eq!(ids, order);
            for one in &found.likeliest {
                prop_assert!(near(one.logprob, twin[one.token as usize]));
            }
        }
    }

    #[test]
    fn of_equals_the_lower_id_comes_first_and_what_is_never_said_is_left_out() {
        let least = f32::NEG_INFINITY;
        let found = Logprobs::new(&[1.0, least, 2.0, 1.0, 2.0], 1, 20);
        let ids: Vec<u32> = found.likeliest.iter().map(|one| one.token).collect();
        assert_eq!(ids, [2, 4, 0, 3]);
        assert_eq!(found.chosen, Logprob { token: 1, logprob: f64::NEG_INFINITY });
        assert_eq!(found.likeliest[0].logprob, found.likeliest[1].logprob);
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        for best in [f32::MAX, f32::INFINITY] {
            let found = Logprobs::new(&[best, f32::MIN, best], 1, 1);
            assert_eq!(found.likeliest, [Logprob { token: 0, logprob: 0.5f64.ln() }]);
            assert!(found.chosen.logprob < -1e38);
        }
    }
}
