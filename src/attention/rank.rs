//! The rules by which both levels choose, in plain numbers.

use super::{BlockScorer, TokenScorer};

/// What a query head's exponentials of token scores are divided by, before they are averaged over its group and rank the tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Divisor {
    /// Their sum over the candidates: each head has as much of a say, however little of its attention goes to any of them.
    Candidates,
    /// Their sum over all sealed blocks, which level 1 knows where it scores by the same logits: a token's rank is the share of
    /// attention that it has. No kernel has to sum anything before it ranks.
    Blocks,
}

impl Divisor {
    /// Of these scorers.
    pub(crate) fn of(blocks: BlockScorer, tokens: TokenScorer) -> Self {
        match (blocks, tokens) {
            (BlockScorer::Codes, TokenScorer::Codes) => Self::Blocks,
            _ => Self::Candidates,
        }
    }
}

/// The mean over heads of each head's softmax over all items.
pub fn softmax_mean(heads: &[&[f32]]) -> Vec<f64> {
    share_mean(heads, heads)
}

/// The mean over heads of the exponentials of each head's scores, divided by their sum over `all` scores of that head.
pub fn share_mean(heads: &[&[f32]], all: &[&[f32]]) -> Vec<f64> {
    let mut mean = vec![0.0; heads[0].len()];
    for (head, all) in heads.iter().zip(all) {
        let largest = all.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weight = |&x: &f32| (f64::from(x) - f64::from(largest)).exp();
        let sum: f64 = all.iter().map(weight).sum();
        for (m, x) in mean.iter_mut().zip(*head) {
            *m += weight(x) / sum / heads.len() as f64;
        }
    }
    mean
}

/// The k largest scores, in ascending order of index, ties to the lowest index, NaN last.
pub fn top_k(scores: &[f64], k: usize) -> Vec<usize> {
    let rank = |i: usize| if scores[i].is_nan() { f64::NEG_INFINITY } else { scores[i] };
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| rank(b).total_cmp(&rank(a)).then(a.cmp(&b)));
    order.truncate(k);
    order.sort_unstable();
    order
}
