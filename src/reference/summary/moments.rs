//! The mean and the standard deviation.

use super::SummaryTwin;
use crate::attention::BlockScorer;

pub(super) const TWIN: SummaryTwin =
    SummaryTwin { scorer: BlockScorer::MeanStd, summarise, doubt, term };

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.sum::<f64>() / count
}

fn summarise(keys: &[f32]) -> Vec<f64> {
    let about = mean(keys.iter().map(|&key| f64::from(key)));
    let squares = keys.iter().map(|&key| (f64::from(key) - about).powi(2));
    vec![about, mean(squares).sqrt()]
}

// Each of B sums rounds by at most 2^-24 of the sum of magnitudes, which puts the mean off by B 2^-24 of the mean magnitude.
// The deviation about a mean that is off is off by no more; its own sum, its products and its root, of 5 ulp, add
// (B + 24) 2^-24 of itself, which is at most the largest magnitude. Equal keys are exact.
fn doubt(keys: &[f32]) -> f64 {
    if keys.iter().all(|key| *key == keys[0]) {
        return 0.0;
    }
    let largest = keys.iter().fold(0.0f64, |largest, &key| largest.max(f64::from(key).abs()));
    (2.0 * keys.len() as f64 + 24.0) * 2f64.powi(-24) * largest
}

// The product of the query with a key so far from the mean, to the side that it points to.
fn term(q: f64, rows: &[f64]) -> f64 {
    q * rows[0] + f64::from(BlockScorer::MEAN_STD_DEVIATIONS) * q.abs() * rows[1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_of_few_keys() {
        let [mean, deviation] = summarise(&[1.0, 3.0, 1.0, 3.0])[..] else { panic!("two rows") };
        assert_eq!((mean, deviation), (2.0, 1.0));
        assert_eq!(summarise(&[5.5; 16]), [5.5, 0.0]);
        let reach = f64::from(BlockScorer::MEAN_STD_DEVIATIONS);
        assert_eq!(term(-2.0, &[2.0, 1.0]), -4.0 + 2.0 * reach);
    }
}
