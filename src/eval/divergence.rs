//! How far a method's distribution of the next token is from that of dense attention, over a text.

use super::activity::Activity;
use super::forced::{self, forced};
use super::{Engines, Method};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// One method beside the first, position by position.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// Kullback-Leibler divergence of the method's distribution from the first method's, in nats.
    pub divergences: Vec<f64>,
    /// Whether both have the same likeliest token.
    pub agrees: Vec<bool>,
    /// Negative logarithm of the probability of the text's token.
    pub losses: Vec<f64>,
    /// What its steps did.
    pub activity: Activity,
}

/// Compares each method's distributions of `tokens[prefill ..]` with the first method's. The first `prefill - 1` tokens are
/// prefilled once an engine; the rest are decode steps, each given the text's own token, of forks of each method's own. So
/// selection is what is measured, and the first method decodes too. `progress` is called with the tokens done so far, of
/// [`work`]; `None` where it returned false.
///
/// # Errors
/// [`Error::Argument`] for a text that is shorter than `prefill + 1` tokens or a prefill below 2; [`Error::Model`] where
/// logits are not numbers, or a token is impossible that the first method finds possible; else as
/// [`Engine::decode`](crate::engine::Engine::decode). Every engine needs two sessions.
pub async fn compare(
    engines: &mut Engines,
    tokens: &[u32],
    prefill: usize,
    methods: &[Method],
    progress: &mut (dyn FnMut(u64) -> bool + Send),
) -> Result<Option<Vec<Compared>>> {
    let mut all = vec![Compared::default(); methods.len()];
    let mut reference: Vec<Vec<f32>> = Vec::new();
    let mut score = |method: usize, step: usize, logits: Vec<f32>| {
        let position = prefill + step;
        if method == 0 {
            reference.push(logits.clone());
        }
        let (first, one) = (&reference[step], &mut all[method]);
        let divergence = divergence(first, &logits);
        if !divergence.is_finite() {
            return Err(Error::Model(format!(
                "{}: the divergence from {} at position {position} is {divergence}, as if a token were impossible",
                methods[method].name, methods[0].name
            )));
        }
        one.divergences.push(divergence);
        one.agrees.push(likeliest(first) == likeliest(&logits));
        one.losses.push(loss(&logits, tokens[position]));
        Ok(())
    };
    let made = forced(engines, tokens, prefill, methods, &mut score, progress).await?;
    let Some(activities) = made else { return Ok(None) };
    for (one, activity) in all.iter_mut().zip(activities) {
        one.activity = activity;
    }
    Ok(Some(all))
}

/// Tokens that [`compare`] counts.
pub fn work(tokens: usize, prefill: usize, methods: usize, engines: usize) -> u64 {
    forced::work(tokens, prefill, methods, engines)
}

/// The Kullback-Leibler divergence, in nats, of the distribution of `other`'s logits from that of `first`'s: what is lost, in
/// the mean, by who expects the first and gets the other. Zero of equal logits.
pub fn divergence(first: &[f32], other: &[f32]) -> f64 {
    let (first_sum, other_sum) = (log_sum_exp(first), log_sum_exp(other));
    let terms = first.iter().zip(other).map(|(&a, &b)| {
        let (a, b) = (f64::from(a) - first_sum, f64::from(b) - other_sum);
        let probability = a.exp();
        // What never comes costs nothing.
        if probability == 0.0 { 0.0 } else { probability * (a - b) }
    });
    let sum: f64 = terms.sum();
    // Sums of rounded terms may end just below. What is not a number stays so.
    if sum < 0.0 { 0.0 } else { sum }
}

/// The negative logarithm of the probability that these logits give to `token`.
pub(super) fn loss(logits: &[f32], token: u32) -> f64 {
    log_sum_exp(logits) - f64::from(logits[token as usize])
}

fn log_sum_exp(logits: &[f32]) -> f64 {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    largest + logits.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum::<f64>().ln()
}

// The first of the largest.
fn likeliest(logits: &[f32]) -> Option<usize> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter().position(|&logit| logit == largest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_pcg::Pcg64;
    use rand_pcg::rand_core::Rng;

    // By the definition, from probabilities.
    fn defined(first: &[f32], other: &[f32]) -> f64 {
        let probabilities = |logits: &[f32]| {
            let powers: Vec<f64> = logits.iter().map(|&logit| f64::from(logit).exp()).collect();
            let sum: f64 = powers.iter().sum();
            powers.into_iter().map(|power| power / sum).collect::<Vec<_>>()
        };
        let (first, other) = (probabilities(first), probabilities(other));
        first.iter().zip(&other).map(|(p, q)| p * (p / q).ln()).sum()
    }

    #[test]
    fn divergences_are_as_defined() {
        let (a, b) = ([1.0f32, 2.5, -3.0, 0.25], [0.5f32, 2.0, -1.0, 1.25]);
        for (first, other) in [(&a, &b), (&b, &a)] {
            assert!((divergence(first, other) - defined(first, other)).abs() < 1e-14);
        }
        assert_eq!(divergence(&a, &a), 0.0);
        // All logits by the same more mean the same.
        assert!(divergence(&a, &a.map(|logit| logit + 8.0)) < 1e-15);
        // Far beyond what powers of f64 hold.
        let (large, small) = ([3e4f32, 0.0], [0.0f32, 3e4]);
        assert!((divergence(&large, &small) - 3e4).abs() < 1e-9);
        let least = f32::NEG_INFINITY;
        assert!((divergence(&[0.0, least], &[0.0, 0.0]) - 2f64.ln()).abs() < 1e-15);
        assert_eq!(divergence(&[0.0, 0.0], &[0.0, least]), f64::INFINITY);
        assert!(divergence(&[0.0, f32::NAN], &[0.0, 0.0]).is_nan());
    }

    /// Of logits that a normal error of deviation s falls on, a uniform distribution over many tokens diverges by the logarithm
    /// of the mean of exp(error), which is s^2 / 2.
    #[test]
    fn random_errors_have_their_expected_divergence() {
        let mut random = Pcg64::new(3, 5);
        let mut uniform = || (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let mut normal = || (0..12).map(|_| uniform()).sum::<f64>() - 6.0;
        for deviation in [0.1f64, 0.5] {
            let first = vec![1.0f32; 20_000];
            let other: Vec<f32> = first.iter().map(|l| l + (deviation * normal()) as f32).collect();
            let (found, expected) = (divergence(&first, &other), deviation * deviation / 2.0);
            assert!((found / expected - 1.0).abs() < 0.05, "{found} instead of {expected}");
        }
    }

    #[test]
    fn losses_are_negative_log_probabilities() {
        let logits = [1.0f32, 2.0, 3.0];
        let sum: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
        for (token, logit) in logits.iter().enumerate() {
            let probability = f64::from(*logit).exp() / sum;
            assert!((loss(&logits, token as u32) + probability.ln()).abs() < 1e-12);
        }
        assert!(loss(&[-1e30, 0.0], 0) > 1e29);
    }

    #[test]
    fn of_equal_logits_the_first_is_the_likeliest() {
        assert_eq!(likeliest(&[1.0, 3.0, 3.0]), Some(1));
        assert_eq!(likeliest(&[]), None);
    }
}
