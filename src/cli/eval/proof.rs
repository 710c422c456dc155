//! Proof that a row's selection was active.

use asynctls::eval::table::Cell;
use asynctls::eval::{Activity, Method};
use serde::Serialize;

/// What a row's decode steps did.
#[derive(Debug, Serialize)]
pub struct Proof {
    /// Tokens attended by a step, in the mean.
    attended_tokens: Option<f64>,
    /// The share of the tokens there that was attended.
    attended_share: Option<f64>,
    /// Decode steps.
    steps: u64,
    /// Those that left tokens out.
    selecting_steps: u64,
    /// Of a selection, whether no step left any token out: what it lost then says nothing.
    nothing_left_out: Option<bool>,
    /// The share of the chosen head-blocks that their step did not attend, where the KV cache is in CPU memory.
    missed_share: Option<f64>,
    /// The share of the steps that were done again because of what they missed, where that is weighed.
    redone_share: Option<f64>,
}

impl Proof {
    /// The columns of [`Proof::cells`].
    pub const COLUMNS: [&str; 5] = ["attended", "of cache %", "selecting", "missed %", "redone %"];

    /// Of all these steps of a method together.
    pub fn new<'a>(method: &Method, activities: impl Iterator<Item = &'a Activity>) -> Self {
        let mut all = Activity::default();
        activities.for_each(|activity| all.add(activity));
        Self {
            attended_tokens: all.attended_a_step(),
            attended_share: all.attended_share(),
            steps: all.steps,
            selecting_steps: all.selecting,
            nothing_left_out: method.selection().map(|_| all.selecting == 0),
            missed_share: all.missed_share(),
            redone_share: all.redone_share().filter(|_| weighs(method)),
        }
    }

    /// The end of a table's row.
    pub fn cells(&self) -> [Cell; 5] {
        let percent = |share: Option<f64>| Cell::number(share.map(|share| share * 100.0), 1);
        [
            Cell::number(self.attended_tokens, 0),
            percent(self.attended_share),
            format!("{}/{}", self.selecting_steps, self.steps).into(),
            percent(self.missed_share),
            percent(self.redone_share),
        ]
    }

    /// The figures of a table's row; words in their place where the selection did nothing.
    pub fn figures(&self, figures: Vec<Cell>) -> Vec<Cell> {
        if self.nothing_left_out != Some(true) {
            return figures;
        }
        let words = std::iter::once("nothing left out".into());
        words.chain(std::iter::repeat(Cell::Empty)).take(figures.len()).collect()
    }
}

// Whether a step of this method may be done again.
fn weighs(method: &Method) -> bool {
    let rule = method.host.filter(|_| method.selection().is_some());
    rule.is_some_and(|rule| rule.timing.weighs(rule.most_missed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use asynctls::eval::parse_budget;

    #[test]
    fn a_selection_that_left_nothing_out_says_so() {
        let budget = parse_budget("4+64").unwrap();
        let method = Method::two_level("codes".parse().unwrap(), "codes".parse().unwrap(), budget);
        let idle = Activity { steps: 5, attended: 50, there: 50, ..Activity::default() };
        let busy = Activity { steps: 5, selecting: 1, attended: 30, there: 50, ..idle };
        let figures = || vec![Cell::count(100), Cell::count(0)];
        let shown = |method: &Method, activities: &[Activity]| {
            Proof::new(method, activities.iter()).figures(figures())
        };
        assert_eq!(shown(&method, &[idle, idle]), ["nothing left out".into(), Cell::Empty]);
        assert_eq!(shown(&method, &[idle, busy]), figures());
        assert_eq!(shown(&Method::dense(), &[idle]), figures());
        let cells = Proof::new(&method, [idle, busy].iter()).cells();
        assert_eq!(
            cells,
            [Cell::number(8.0, 0), Cell::number(80.0, 1), "1/10".into(), Cell::Empty, Cell::Empty]
        );
    }
}
