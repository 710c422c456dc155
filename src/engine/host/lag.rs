//! What level 1 chose in one step, which the next one attends or fetches by. Pure.

use crate::attention::{MostMissed, RowBudget, TwoLevel};

/// The choice of a step, and what step may follow it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Lag {
    /// What the step selected by.
    pub(super) two_level: TwoLevel,
    /// Slot and next position of each row's session.
    pub(super) rows: Vec<(u32, u32)>,
    /// Of each layer what it chose, as many blocks as the next step's budget keeps.
    pub(super) lists: Vec<Lists>,
    /// By how many blocks a row the GPU lists them for the next step, where it does: a step with the same budgets chose them.
    pub(super) listed_by: Option<u32>,
}

/// Blocks that a layer chose: row, KV head, logical blocks ascending.
pub(super) type Lists = Vec<Vec<Vec<u32>>>;

impl Lag {
    /// Whether a step over these rows continues it.
    pub(super) fn leads_to(&self, rows: &[(u32, u32)], two_level: &TwoLevel) -> bool {
        self.rows == rows && self.two_level == *two_level
    }
}

/// The blocks that a step chose as the next one lists them: where its budget keeps more, because a block was sealed or left the
/// recent window, the newest eligible blocks fill it up.
pub(super) fn next_list(chosen: Vec<u32>, next: &RowBudget) -> Vec<u32> {
    let mut list = chosen;
    let mut newest = (next.sink..next.recent_first).rev();
    while list.len() < next.blocks as usize {
        let Some(block) = newest.next() else { break };
        if let Err(at) = list.binary_search(&block) {
            list.insert(at, block);
        }
    }
    list
}

/// Numbers that both ascending lists hold.
pub(super) fn in_both(a: &[u32], b: &[u32]) -> u64 {
    let (mut i, mut j, mut both) = (0, 0, 0);
    // Without a branch on which is smaller, which nothing predicts.
    while let (Some(x), Some(y)) = (a.get(i), b.get(j)) {
        both += u64::from(x == y);
        i += usize::from(x <= y);
        j += usize::from(y <= x);
    }
    both
}

/// The union of ascending lists of one layer and KV head, one a row, as physical blocks, ascending.
pub(super) fn wanted<'a>(lists: impl Iterator<Item = (&'a [u32], &'a [u32])>) -> Vec<u32> {
    let mut blocks: Vec<u32> = lists
        .flat_map(|(list, table)| list.iter().map(|&logical| table[logical as usize]))
        .collect();
    blocks.sort_unstable();
    blocks.dedup();
    blocks
}

/// The shares of mass that a step missed, as its layers tell.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Missed {
    /// The largest of all.
    pub(super) largest: f32,
    /// Of each row the sum.
    sums: Vec<f32>,
    /// Of how many.
    heads: usize,
}

impl Missed {
    /// Takes in those of a layer: of each row one a KV head.
    pub(super) fn add(&mut self, layer: &[f32], kv_heads: usize) {
        self.sums.resize(layer.len() / kv_heads, 0.0);
        for (sum, shares) in self.sums.iter_mut().zip(layer.chunks(kv_heads)) {
            *sum += shares.iter().sum::<f32>();
        }
        // What is not a number stays, as it does in the sum.
        let larger =
            |most: f32, &share: &f32| if share <= most || most.is_nan() { most } else { share };
        self.largest = layer.iter().fold(self.largest, larger);
        self.heads += kv_heads;
    }

    /// Whether the step stands.
    pub(super) fn is_allowed(&self, most: MostMissed) -> bool {
        let means = self.sums.iter().map(|sum| sum / self.heads as f32);
        most.allows(self.largest, 0.0) && means.into_iter().all(|mean| most.allows(0.0, mean))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_longer_budget_is_filled_up_with_the_newest_eligible_blocks() {
        let row = |position| RowBudget::new(position, 64, 4, 100, (1, 2));
        // Blocks 1 to 7 are eligible.
        let next = row(10 * 64);
        assert_eq!((next.sink, next.recent_first, next.blocks), (1, 8, 4));
        assert_eq!(next_list(vec![2, 7], &next), [2, 5, 6, 7]);
        assert_eq!(next_list(vec![1, 2, 3, 4], &next), [1, 2, 3, 4]);
        // Where there are fewer than the budget all are listed.
        let few = row(5 * 64);
        assert_eq!(next_list(Vec::new(), &few), [1, 2]);
    }

    #[test]
    fn rows_want_physical_blocks_once() {
        let tables: [&[u32]; 2] = [&[9, 8, 7], &[9, 3, 1]];
        let lists: [&[u32]; 2] = [&[0, 2], &[0, 1]];
        assert_eq!(wanted(lists.into_iter().zip(tables)), [3, 7, 9]);
        assert_eq!(in_both(&[1, 4, 6], &[0, 4, 5, 6]), 2);
        assert_eq!((in_both(&[], &[3]), in_both(&[3], &[3]), in_both(&[3, 4], &[1])), (0, 1, 0));
    }

    #[test]
    fn a_step_stands_by_its_worst_head_and_its_worst_row() {
        let mut missed = Missed::default();
        assert!(missed.is_allowed(MostMissed::NONE));
        // Two rows of two KV heads, in two layers: means of 0.15 and 0.3.
        missed.add(&[0.1, 0.0, 0.5, 0.0], 2);
        missed.add(&[0.2, 0.3, 0.1, 0.6], 2);
        assert_eq!(missed.largest, 0.6);
        let allowed = |text: &str| missed.is_allowed(text.parse().unwrap());
        assert!(allowed("61%") && !allowed("59%") && allowed("off"));
        assert!(allowed("100%/31%") && !allowed("100%/29%") && !allowed("59%/31%"));
        missed.add(&[f32::NAN, 0.0, 0.0, 0.0], 2);
        assert!(!missed.is_allowed("99%".parse().unwrap()) && missed.is_allowed(MostMissed::ALL));
    }
}
