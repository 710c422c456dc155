//! The smallest and the largest key.

use super::SummaryTwin;
use crate::attention::BlockScorer;

pub(super) const TWIN: SummaryTwin =
    SummaryTwin { scorer: BlockScorer::MinMax, summarise, doubt: |_| 0.0, term };

fn summarise(keys: &[f32]) -> Vec<f64> {
    let extreme = |pick: fn(f32, f32) -> f32| keys.iter().copied().reduce(pick).expect("a key");
    vec![f64::from(extreme(f32::min)), f64::from(extreme(f32::max))]
}

// The largest product of the query with anything between the bounds.
fn term(q: f64, rows: &[f64]) -> f64 {
    f64::max(q * rows[0], q * rows[1])
}
