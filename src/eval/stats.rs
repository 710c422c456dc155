//! Means and how far to trust them.

use rand_pcg::Pcg64;
use rand_pcg::rand_core::Rng;
use serde::{Deserialize, Serialize};

/// How many times an interval draws its values anew.
const RESAMPLES: usize = 4_000;

/// The sequence of the generator: not the sampler's, so that the same seed gives other numbers here.
const STREAM: u128 = 0xb007;

/// A mean and its 95% confidence interval. What cannot be known is none, which JSON writes as null.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// None of no values, or where one of them is not a number.
    pub mean: Option<f64>,
    /// The lower end; none of fewer than two values.
    pub low: Option<f64>,
    /// The upper end; none of fewer than two values.
    pub high: Option<f64>,
    /// How many values there were.
    pub count: usize,
}

/// The mean of paired differences with its percentile bootstrap interval (Efron and Tibshirani, "An Introduction to
/// the Bootstrap", 1993, chapter 13), the same on every platform for the same seed.
///
/// Each difference must be independent of the others: take [`blocks`] of values that follow each other. Of few values
/// the interval is too narrow (of 10 it holds the true mean about 90 times in 100), and it knows nothing of what
/// none of the values shows.
pub fn paired_interval(differences: &[f64], seed: u64) -> Interval {
    let count = differences.len();
    let mean = mean(differences);
    if count < 2 || mean.is_none() {
        return Interval { mean, low: None, high: None, count };
    }
    let mut random = Pcg64::new(seed.into(), STREAM);
    // The upper bits of the product: a place below the count, uneven by less than one in 2^64 / count.
    let mut draw = || differences[((u128::from(random.next_u64()) * count as u128) >> 64) as usize];
    let means: Vec<f64> =
        (0..RESAMPLES).map(|_| (0..count).map(|_| draw()).sum::<f64>() / count as f64).collect();
    Interval { mean, low: quantile(&means, 0.025), high: quantile(&means, 0.975), count }
}

/// The arithmetic mean; none of no values, or where it is not a number.
pub fn mean(values: &[f64]) -> Option<f64> {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    (!mean.is_nan()).then_some(mean)
}

/// The value below which the share `q` (0 to 1, or else the nearer of these) of the values lies, with linear
/// interpolation between neighbours; none of no values, or where one of them or `q` is not a number.
pub fn quantile(values: &[f64], q: f64) -> Option<f64> {
    if values.is_empty() || q.is_nan() || values.iter().any(|value| value.is_nan()) {
        return None;
    }
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let place = q.clamp(0.0, 1.0) * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    // Equal neighbours are not interpolated: two infinities have no difference.
    Some(if below == above { below } else { below + (above - below) * place.fract() })
}

/// The means of consecutive blocks of `size` values (0 counts as 1), as long as there are whole blocks.
///
/// Neighbours that resemble each other, such as the losses of a text's tokens, are not independent, but means of blocks
/// longer than the resemblance nearly are.
pub fn blocks(values: &[f64], size: usize) -> Vec<f64> {
    let size = size.max(1);
    values.chunks_exact(size).map(|block| block.iter().sum::<f64>() / size as f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(values: &[f64], seed: u64) -> (f64, f64) {
        let interval = paired_interval(values, seed);
        (interval.low.unwrap(), interval.high.unwrap())
    }

    #[test]
    fn intervals_of_few_values_are_those_of_all_resamples() {
        // Means 0, 1/2 and 1 have probabilities 1/4, 1/2 and 1/4.
        assert_eq!(ends(&[0.0, 1.0], 7), (0.0, 1.0));
        // All three draws are the 9 with probability 1/27, more than 1/40.
        assert_eq!(ends(&[0.0, 9.0, 0.0], 7), (0.0, 9.0));
        // The 4 is drawn at least 3 times of 4 with probability 13/256, every time with 1/256.
        assert_eq!(ends(&[0.0, 0.0, 4.0, 0.0], 7), (0.0, 3.0));
        assert_eq!(ends(&[2.5; 9], 7), (2.5, 2.5));
    }

    #[test]
    fn what_cannot_be_known_is_null() {
        for (values, json) in [
            (&[][..], r#"{"mean":null,"low":null,"high":null,"count":0}"#),
            (&[3.0], r#"{"mean":3.0,"low":null,"high":null,"count":1}"#),
            (&[3.0, f64::NAN], r#"{"mean":null,"low":null,"high":null,"count":2}"#),
        ] {
            let interval = paired_interval(values, 0);
            assert_eq!(serde_json::to_string(&interval).unwrap(), json);
            assert_eq!(serde_json::from_str::<Interval>(json).unwrap(), interval);
        }
    }

    #[test]
    fn the_seed_decides() {
        let values: Vec<f64> = (0..50).map(|i| f64::from(i * i % 37)).collect();
        assert_eq!(paired_interval(&values, 1), paired_interval(&values, 1));
        assert_ne!(paired_interval(&values, 1), paired_interval(&values, 2));
    }

    #[test]
    fn about_95_of_100_intervals_hold_the_true_mean() {
        let mut random = Pcg64::new(11, 12);
        let mut uniform = || (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        // The sum of twelve uniform numbers is nearly normal, with variance 1.
        let mut normal = || 3.0 + (0..12).map(|_| uniform()).sum::<f64>() - 6.0;
        let trials = 300;
        let mut held = 0;
        let mut widths = 0.0;
        for seed in 0..trials {
            let values: Vec<f64> = (0..40).map(|_| normal()).collect();
            let (low, high) = ends(&values, seed);
            held += usize::from(low <= 3.0 && 3.0 <= high);
            widths += high - low;
        }
        let share = held as f64 / trials as f64;
        assert!((0.91..0.98).contains(&share), "{share}");
        // 2 * 1.96 / sqrt(40)
        let width = widths / trials as f64;
        assert!((0.56..0.64).contains(&width), "{width}");
    }

    #[test]
    fn quantiles_are_interpolated() {
        let values = [40.0, 10.0, 30.0, 20.0];
        for (q, expected) in
            [(0.0, 10.0), (0.5, 25.0), (0.05, 11.5), (1.0, 40.0), (-1.0, 10.0), (9.0, 40.0)]
        {
            let found = quantile(&values, q).unwrap();
            assert!((found - expected).abs() < 1e-12, "{q}: {found}");
        }
        assert_eq!(quantile(&[f64::INFINITY; 2], 0.3), Some(f64::INFINITY));
        assert_eq!(quantile(&[5.0], 0.3), Some(5.0));
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[1.0, f64::NAN], 0.5), None);
        assert_eq!(quantile(&[1.0], f64::NAN), None);
    }

    #[test]
    fn means_of_whole_blocks() {
        assert_eq!(mean(&[1.0, 2.0, 6.0]), Some(3.0));
        assert_eq!(mean(&[]), None);
        assert_eq!(blocks(&[1.0, 3.0, 5.0, 9.0, 100.0], 2), [2.0, 7.0]);
        assert_eq!(blocks(&[1.0, 3.0], 3), [0.0; 0]);
        assert_eq!(blocks(&[1.0, 3.0], 0), [1.0, 3.0]);
    }
}
