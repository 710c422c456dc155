//! Twins of summaries of blocks: `shaders/lib/summarise_*.wgsl` and `fold_*.wgsl`, a file each. A summary is of each dimension
//! by itself.

mod bounds;
mod moments;

use crate::attention::BlockScorer;
use half::f16;

/// The twin of the summary that a scorer reads.
#[derive(Clone, Copy, Debug)]
pub struct SummaryTwin {
    /// Whose summary.
    pub scorer: BlockScorer,
    /// The rows' values of a block's keys in one dimension, before they are rounded to f16.
    pub summarise: fn(&[f32]) -> Vec<f64>,
    /// How far f32 arithmetic may be off any of these.
    pub doubt: fn(&[f32]) -> f64,
    /// What one dimension of a query adds to the block's score, by the rows' values.
    pub term: fn(f64, &[f64]) -> f64,
}

const TWINS: [SummaryTwin; 2] = [bounds::TWIN, moments::TWIN];

impl SummaryTwin {
    /// Of the summary that this scorer reads, if it reads one.
    pub fn of(scorer: BlockScorer) -> Option<&'static Self> {
        TWINS.iter().find(|twin| twin.scorer == scorer)
    }

    /// The summary of a block of these keys as it is stored: row, dimension.
    pub fn rows(&self, keys: &[&[f32]]) -> Vec<Vec<f32>> {
        let dimensions: Vec<Vec<f64>> =
            (0..keys[0].len()).map(|d| (self.summarise)(&dimension(keys, d))).collect();
        let stored = |value: f64| f16::from_f64(value).to_f32();
        let row = |row| dimensions.iter().map(|values| stored(values[row])).collect();
        (0..dimensions[0].len()).map(row).collect()
    }

    /// A block's score: the sum over the group's queries and dimensions.
    pub fn score(&self, queries: &[&[f32]], rows: &[Vec<f32>]) -> f64 {
        let of_dimension = |d: usize| {
            let values: Vec<f64> = rows.iter().map(|row| f64::from(row[d])).collect();
            queries.iter().map(|query| (self.term)(f64::from(query[d]), &values)).sum::<f64>()
        };
        (0..rows[0].len()).map(of_dimension).sum()
    }
}

/// One dimension of some keys.
pub fn dimension(keys: &[&[f32]], dimension: usize) -> Vec<f32> {
    keys.iter().map(|key| key[dimension]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_summary_has_a_twin_with_its_rows() {
        for scorer in BlockScorer::all() {
            let rows = SummaryTwin::of(scorer).map(|twin| twin.rows(&[&[1.0, 2.0]]).len() as u32);
            assert_eq!(rows, scorer.summary().map(|summary| summary.rows), "{scorer}");
        }
    }
}
