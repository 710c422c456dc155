//! Attention-mass recall: how much of what dense attention would attend a selection attends, and which level lost the rest.

use crate::attention::top_k;
use crate::attention::{RowBudget, Shape};
use crate::engine::{LayerCacheView, LayerView};
use std::collections::BTreeSet;

/// The attention of one query head of one layer in one step, as shares of its dense attention.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HeadRecall {
    /// Mass attended.
    pub recall: f64,
    /// Mass that the oracle's selection would have attended with the same budget.
    pub oracle: f64,
    /// Mass that the oracle's tokens would have attended within the blocks that level 1 chose.
    pub oracle_tokens: f64,
    /// Relative error of the output, |o - dense o| / |dense o|.
    pub error: f64,
    /// Mass that dense attention gives to the tokens of the needles.
    pub needle: f64,
}

/// Exact attention of one KV head's group in one step.
pub struct Exact {
    /// Logits of each query head: token.
    pub logits: Vec<Vec<f32>>,
    /// Probabilities of each query head over all tokens.
    pub mass: Vec<Vec<f64>>,
}

impl Exact {
    /// Of KV head `head`, whose keys are those of the cache and of the view's own token.
    pub fn new(shape: &Shape, cache: &LayerCacheView, view: &LayerView, head: usize) -> Self {
        let (d, group) = (shape.head_dim as usize, shape.group as usize);
        let own = &view.key[head * d..][..d];
        let logits: Vec<Vec<f32>> = (0..group)
            .map(|h| {
                let query = &view.queries[(head * group + h) * d..][..d];
                let keys = cache.keys[head].chunks_exact(d).chain(std::iter::once(own));
                keys.map(|key| shape.logit(dot(query, key))).collect()
            })
            .collect();
        let mass = logits.iter().map(|logits| softmax(logits)).collect();
        Self { logits, mass }
    }

    /// The oracle's importance of each of `blocks` sealed blocks: the mean over the group of its mass among them.
    pub fn block_importance(&self, blocks: u32, block: u32) -> Vec<f64> {
        let mut importance = vec![0.0; blocks as usize];
        for mass in &self.mass {
            let masses: Vec<f64> = mass[..(blocks * block) as usize]
                .chunks_exact(block as usize)
                .map(|tokens| tokens.iter().sum())
                .collect();
            let all: f64 = masses.iter().sum();
            for (i, m) in importance.iter_mut().zip(masses) {
                *i += m / all / self.mass.len() as f64;
            }
        }
        importance
    }

    /// The `blocks` candidates that the oracle keeps.
    pub fn best_blocks(&self, row: &RowBudget, block: u32) -> Vec<u32> {
        let importance = self.block_importance(row.sealed, block);
        let eligible = &importance[row.sink as usize..row.recent_first as usize];
        top_k(eligible, row.blocks as usize).into_iter().map(|b| b as u32 + row.sink).collect()
    }

    /// The `row.tokens` tokens of these blocks that the oracle keeps.
    pub fn best_tokens(&self, row: &RowBudget, block: u32, blocks: &[u32]) -> Vec<u32> {
        let tokens: Vec<u32> = blocks.iter().flat_map(|b| b * block..(b + 1) * block).collect();
        let mut importance = vec![0.0; tokens.len()];
        for mass in &self.mass {
            let all: f64 = tokens.iter().map(|&t| mass[t as usize]).sum();
            for (i, &t) in importance.iter_mut().zip(&tokens) {
                // Mass that underflows everywhere ranks nothing.
                *i += if all > 0.0 { mass[t as usize] / all } else { 0.0 };
            }
        }
        top_k(&importance, row.tokens as usize).into_iter().map(|i| tokens[i]).collect()
    }

    /// The mass of one query head on what is always attended and on these tokens.
    pub fn attended(&self, h: usize, row: &RowBudget, block: u32, tokens: &[u32]) -> f64 {
        let mass = &self.mass[h];
        let sink: f64 = mass[..(row.sink * block) as usize].iter().sum();
        let recent: f64 = mass[(row.recent_first * block) as usize..].iter().sum();
        sink + recent + tokens.iter().map(|&t| mass[t as usize]).sum::<f64>()
    }
}

/// Measures every query head of a layer in one step. `cache` holds what was there before the step's own token, `needles`
/// are positions.
pub fn measure(
    shape: &Shape,
    cache: &LayerCacheView,
    view: &LayerView,
    row: &RowBudget,
    needles: &[u32],
) -> Vec<HeadRecall> {
    let (length, group, block) = (shape.value_dim() as usize, shape.group as usize, shape.block);
    let mut heads = Vec::with_capacity(shape.q_heads() as usize);
    for head in 0..shape.kv_heads as usize {
        let exact = Exact::new(shape, cache, view, head);
        let best = exact.best_tokens(row, block, &exact.best_blocks(row, block));
        let best_of_chosen = exact.best_tokens(row, block, &view.blocks[head]);
        let own = &view.value[head * length..][..length];
        for h in 0..group {
            let dense = weighted(&exact.mass[h], &cache.values[head], own);
            let made = &view.attended[(head * group + h) * length..][..length];
            let mass = |tokens: &[u32]| exact.attended(h, row, block, tokens);
            heads.push(HeadRecall {
                recall: mass(&view.tokens[head]),
                oracle: mass(&best),
                oracle_tokens: mass(&best_of_chosen),
                error: relative_error(made, &dense),
                needle: needles.iter().map(|&t| exact.mass[h][t as usize]).sum(),
            });
        }
    }
    heads
}

/// How a KV head's blocks changed from one step to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Turnover {
    /// Share of the blocks that were chosen in the step before too.
    pub overlap: f64,
    /// Share of the blocks that came in that rank in the lower half of the chosen: churn at the cut-off. NaN where none
    /// came in.
    pub at_cut_off: f64,
}

/// The turnover of blocks chosen now, best first, against those of the step before. `None` where nothing is chosen.
pub fn turnover(best_first: &[u32], before: &[u32]) -> Option<Turnover> {
    if best_first.is_empty() || before.is_empty() {
        return None;
    }
    let before: BTreeSet<u32> = before.iter().copied().collect();
    let came: Vec<usize> =
        (0..best_first.len()).filter(|&i| !before.contains(&best_first[i])).collect();
    let low = came.iter().filter(|&&rank| rank * 2 >= best_first.len()).count();
    Some(Turnover {
        overlap: 1.0 - came.len() as f64 / best_first.len() as f64,
        at_cut_off: low as f64 / came.len() as f64,
    })
}

/// Appends a step's own token to the view of the cache.
pub fn append(cache: &mut LayerCacheView, view: &LayerView, shape: &Shape) {
    let (key, value) = (shape.head_dim as usize, shape.value_dim() as usize);
    for (head, rows) in cache.keys.iter_mut().enumerate() {
        rows.extend_from_slice(&view.key[head * key..][..key]);
    }
    for (head, rows) in cache.values.iter_mut().enumerate() {
        rows.extend_from_slice(&view.value[head * value..][..value]);
    }
}

// Eight sums, so that the compiler may use vectors.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    for (a, b) in a.chunks_exact(8).zip(b.chunks_exact(8)) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    sums.iter().sum()
}

fn softmax(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f64> = logits.iter().map(|l| f64::from(l - largest).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|w| w / sum).collect()
}

fn weighted(mass: &[f64], values: &[f32], own: &[f32]) -> Vec<f64> {
    let mut out = vec![0.0; own.len()];
    let rows = values.chunks_exact(own.len()).chain(std::iter::once(own));
    for (m, row) in mass.iter().zip(rows) {
        for (o, v) in out.iter_mut().zip(row) {
            *o += m * f64::from(*v);
        }
    }
    out
}

fn relative_error(made: &[f32], dense: &[f64]) -> f64 {
    let difference: f64 = made.iter().zip(dense).map(|(m, d)| (f64::from(*m) - d).powi(2)).sum();
    let size: f64 = dense.iter().map(|d| d * d).sum();
    (difference / size).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::Blocks;
    use crate::attention::Budget;
    use rand_pcg::Pcg64Mcg;
    use rand_pcg::rand_core::{Rng, SeedableRng};

    const BUDGET: Budget = Budget {
        blocks: Blocks::Count(3),
        tokens: 40,
        sink_blocks: 1,
        recent_blocks: 2,
        dense_below: 0,
    };

    fn float(random: &mut Pcg64Mcg) -> f32 {
        random.next_u32() as f32 / 2f32.powi(31) - 1.0
    }

    // A layer with random keys and values, and a step at `position`.
    fn layer(shape: &Shape, position: u32, random: &mut Pcg64Mcg) -> (LayerCacheView, LayerView) {
        let d = shape.head_dim;
        let mut floats = |n: u32| (0..n).map(|_| float(random) * 2.0).collect::<Vec<f32>>();
        let mut rows = || (0..shape.kv_heads).map(|_| floats(position * d)).collect();
        let cache = LayerCacheView { keys: rows(), values: rows() };
        let view = LayerView {
            queries: floats(shape.q_heads() * d),
            key: floats(shape.kv_heads * d),
            value: floats(shape.kv_heads * d),
            attended: vec![0.0; (shape.q_heads() * d) as usize],
            ..LayerView::default()
        };
        (cache, view)
    }

    #[test]
    fn the_oracle_scores_one_and_attends_no_more_than_all() {
        let shape = Shape::new(2, 3, 32, true);
        let mut random = Pcg64Mcg::seed_from_u64(1);
        let position = 20 * 64 + 10;
        let (cache, mut view) = layer(&shape, position, &mut random);
        let row = BUDGET.row(position, 64);
        for head in 0..2 {
            let exact = Exact::new(&shape, &cache, &view, head);
            let blocks = exact.best_blocks(&row, 64);
            view.tokens.push(exact.best_tokens(&row, 64, &blocks));
            view.blocks.push(blocks);
            assert!(exact.mass.iter().all(|m| (m.iter().sum::<f64>() - 1.0).abs() < 1e-12));
        }
        for head in measure(&shape, &cache, &view, &row, &[0, 700]) {
            assert_eq!((head.recall, head.oracle_tokens), (head.oracle, head.oracle));
            assert!(head.recall > 0.1 && head.recall < 1.0, "{head:?}");
            // Nothing was attended, so the error is all of the output.
            assert!((head.error - 1.0).abs() < 1e-12);
            assert!(head.needle > 0.0 && head.needle < 0.2);
        }
    }

    #[test]
    fn a_random_selector_scores_what_chance_gives() {
        let shape = Shape::new(1, 1, 32, true);
        let mut random = Pcg64Mcg::seed_from_u64(2);
        let position = 30 * 64;
        let row = BUDGET.row(position, 64);
        let (cache, mut view) = layer(&shape, position, &mut random);
        let exact = Exact::new(&shape, &cache, &view, 0);
        let eligible: Vec<u32> = (row.sink * 64..row.recent_first * 64).collect();
        let among: f64 = eligible.iter().map(|&t| exact.mass[0][t as usize]).sum();
        let expected = 1.0 - among + among * f64::from(row.tokens) / eligible.len() as f64;
        let rounds = 3000;
        let mut values = Vec::new();
        for _ in 0..rounds {
            let mut pool = eligible.clone();
            let tokens = (0..row.tokens)
                .map(|_| pool.swap_remove(random.next_u32() as usize % pool.len()))
                .collect();
            view.tokens = vec![tokens];
            view.blocks = vec![vec![1, 2, 3]];
            values.push(measure(&shape, &cache, &view, &row, &[])[0].recall);
        }
        let mean = values.iter().sum::<f64>() / f64::from(rounds);
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / f64::from(rounds);
        let error = (variance / f64::from(rounds)).sqrt();
        assert!((mean - expected).abs() < 4.0 * error, "{mean} +- {error}, expected {expected}");
        assert!(mean < measure(&shape, &cache, &view, &row, &[])[0].oracle - 10.0 * error);
    }

    #[test]
    fn a_planted_token_is_what_the_oracle_takes() {
        let shape = Shape::new(1, 2, 32, true);
        let mut random = Pcg64Mcg::seed_from_u64(3);
        let position = 25 * 64 + 3;
        let (mut cache, mut view) = layer(&shape, position, &mut random);
        let row = BUDGET.row(position, 64);
        // Both heads look for one key.
        let query: Vec<f32> = view.queries[..32].to_vec();
        view.queries[32..].copy_from_slice(&query);
        let planted = 13 * 64 + 20;
        let key: Vec<f32> = query.iter().map(|q| q * 6.0).collect();
        cache.keys[0][planted * 32..][..32].copy_from_slice(&key);
        let exact = Exact::new(&shape, &cache, &view, 0);
        let blocks = exact.best_blocks(&row, 64);
        assert!(blocks.contains(&13), "{blocks:?}");
        assert!(exact.best_tokens(&row, 64, &blocks).contains(&(planted as u32)));
        let without = blocks.iter().map(|&b| if b == 13 { 14 } else { b }).collect::<Vec<_>>();
        view.tokens = vec![exact.best_tokens(&row, 64, &without)];
        view.blocks = vec![without];
        let head = measure(&shape, &cache, &view, &row, &[planted as u32])[0];
        // Level 1 lost it: the oracle within its blocks cannot find it either.
        assert!(head.needle > 0.5 && head.oracle - head.oracle_tokens > 0.5, "{head:?}");
        assert!((head.oracle_tokens - head.recall).abs() < 1e-12);
    }

    #[test]
    fn turnover_counts_what_came_in_and_where() {
        assert_eq!(turnover(&[], &[1]), None);
        let same = turnover(&[3, 1, 2, 4], &[1, 2, 3, 4]).unwrap();
        assert!(same.overlap == 1.0 && same.at_cut_off.is_nan());
        let some = turnover(&[9, 1, 2, 8], &[1, 2, 3, 4]).unwrap();
        assert_eq!(some, Turnover { overlap: 0.5, at_cut_off: 0.5 });
    }

    #[test]
    fn appending_extends_every_head() {
        let shape = Shape::new(2, 1, 32, true);
        let (mut cache, view) = layer(&shape, 5, &mut Pcg64Mcg::seed_from_u64(4));
        append(&mut cache, &view, &shape);
        assert_eq!(cache.keys[1].len(), 6 * 32);
        assert_eq!(cache.values[1][5 * 32..], view.value[32..]);
    }
}
