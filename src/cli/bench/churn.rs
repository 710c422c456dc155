//! The choices of a replay's steps: recorded, or made so that a given share of them is new. Pure.

use super::random::Random;
use asynctls::attention::RowBudget;
use asynctls::eval::trace::Selections;
use asynctls::{Error, Result};
use std::collections::VecDeque;

/// The choice of a step: layer, KV head, blocks ascending.
pub type Lists = Vec<Vec<Vec<u32>>>;

/// Shapes that lists must fit.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    pub layers: usize,
    pub kv_heads: usize,
}

/// Lists of so many steps, from one to the next of which a share of each head's blocks is replaced by those that were not
/// chosen for the longest time.
pub fn churn(heads: Heads, budget: &RowBudget, share: f64, steps: usize, seed: u64) -> Vec<Lists> {
    let mut random = Random::new(seed, 7);
    let kept = budget.blocks as usize;
    let mut all: Vec<(Vec<u32>, VecDeque<u32>)> = (0..heads.layers * heads.kv_heads)
        .map(|_| {
            let mut blocks: Vec<u32> = (budget.sink..budget.recent_first).collect();
            random.pick(&mut blocks, usize::MAX);
            let others = blocks.split_off(kept);
            (blocks, others.into())
        })
        .collect();
    let mut made = Vec::with_capacity(steps);
    for _ in 0..steps {
        let lists = all.iter().map(|(chosen, _)| {
            let mut list = chosen.clone();
            list.sort_unstable();
            list
        });
        let lists: Vec<_> = lists.collect();
        made.push(lists.chunks(heads.kv_heads).map(<[_]>::to_vec).collect());
        for (chosen, others) in &mut all {
            // On average the share, whole blocks at a time.
            let count = (share * kept as f64 + random.share()) as usize;
            let count = count.min(kept).min(others.len());
            random.pick(chosen, count);
            for place in &mut chosen[..count] {
                if let Some(next) = others.pop_front() {
                    others.push_back(std::mem::replace(place, next));
                }
            }
        }
    }
    made
}

/// Steps until so many slots beyond the blocks that are kept hold what is not chosen any more.
pub fn steps_to_fill(slots: u32, kept: u32, share: f64) -> usize {
    (f64::from(slots) / (share * f64::from(kept))).ceil() as usize
}

/// Whether so many blocks are nowhere in the hot cache that a share of those chosen can be missed.
///
/// # Errors
/// [`Error::Argument`] that names the option of the tokens.
pub fn check_room(
    row: &RowBudget,
    (option, tokens): (&'static str, u32),
    hot_blocks: u32,
    share: f64,
) -> Result<()> {
    let eligible = row.recent_first - row.sink;
    let new = (share * f64::from(row.blocks)).ceil() as u32 + 1;
    if hot_blocks.saturating_add(new) <= eligible {
        return Ok(());
    }
    let limit = format!(
        "its {eligible} blocks are no more than the {hot_blocks} hot slots and {new} new ones"
    );
    Err(Error::argument(option, format!("{tokens} tokens"), limit))
}

/// Lists of a recorded run; as many blocks of each as the shortest list has.
///
/// # Errors
/// [`Error::Argument`] where it was recorded with other shapes.
pub fn recorded(trace: &Selections, heads: Heads) -> Result<Vec<Lists>> {
    let Heads { layers, kv_heads } = heads;
    let fits = |step: &Lists| step.len() == layers && step.iter().all(|l| l.len() == kv_heads);
    if let Some(step) = trace.blocks.iter().find(|step| !fits(step)) {
        let found =
            format!("{} layers of {} KV heads", step.len(), step.first().map_or(0, Vec::len));
        return Err(Error::argument(
            "--trace",
            found,
            format!("the shape has {layers} of {kv_heads}"),
        ));
    }
    let shortest = trace.blocks.iter().flatten().flatten().map(Vec::len).min().unwrap_or(0);
    if shortest == 0 {
        return Err(Error::argument("--trace", "empty", "a step that chose something is needed"));
    }
    let mut lists = trace.blocks.clone();
    lists.iter_mut().flatten().flatten().for_each(|list| list.truncate(shortest));
    Ok(lists)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADS: Heads = Heads { layers: 3, kv_heads: 2 };

    #[test]
    fn a_share_is_new_and_was_not_there_for_long() {
        // A hundred blocks, of which twenty are chosen: two or three of eighty others come in a step.
        let budget = RowBudget::new(64 * 105, 64, 20, 100, (1, 4));
        let lists = churn(HEADS, &budget, 0.125, 60, 5);
        assert_eq!(lists[..10], churn(HEADS, &budget, 0.125, 10, 5));
        let mut new = 0;
        for step in 20..60 {
            for (layer, heads) in lists[step].iter().enumerate() {
                for (head, list) in heads.iter().enumerate() {
                    assert!(list.len() == 20 && list.is_sorted(), "{list:?}");
                    assert!(list.iter().all(|block| (1..101).contains(block)), "{list:?}");
                    let before = &lists[step - 20..step];
                    let is_new = |b: &&u32| !before.iter().any(|l| l[layer][head].contains(b));
                    new += list.iter().filter(is_new).count();
                }
            }
        }
        let rate = new as f64 / (40 * 6 * 20) as f64;
        assert!((rate - 0.125).abs() < 0.01, "{rate}");
    }

    #[test]
    fn a_trace_of_other_shapes_is_refused() {
        let step = |lengths: [usize; 6]| -> Lists {
            let lists: Vec<Vec<u32>> =
                lengths.iter().map(|&length| (1..).take(length).collect()).collect();
            lists.chunks(2).map(<[_]>::to_vec).collect()
        };
        let blocks = vec![step([4; 6]), step([4, 4, 4, 3, 4, 4])];
        let trace = Selections { positions: vec![300, 301], blocks };
        let lists = recorded(&trace, HEADS).unwrap();
        assert!(lists.iter().flatten().flatten().all(|list| list == &[1, 2, 3]));
        let other = recorded(&trace, Heads { layers: 6, kv_heads: 1 }).unwrap_err().to_string();
        assert!(other.contains("3 layers of 2 KV heads"), "{other}");
        assert!(recorded(&Selections::default(), HEADS).is_err());
    }
}
