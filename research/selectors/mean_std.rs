//! The mean of a block's keys and their standard deviation, dimension by dimension; level 2 ranks tokens by the product's codes.

use super::candidate::{Blocks, Index, Keys, dot};
use super::codes::best_token;

struct MeanStd {
    /// Each block's keys' mean and standard deviation.
    moments: Vec<(Vec<f32>, Vec<f32>)>,
    deviations: f32,
    scale: f32,
    /// Whether each query ranks blocks by itself, by what keys of a normal distribution weigh together.
    per_query: bool,
    tokens: Box<dyn Index>,
}

impl Index for MeanStd {
    fn block_logits(&self, queries: &[&[f32]]) -> Blocks {
        let score = |query: &[f32], (mean, std): &(Vec<f32>, Vec<f32>)| {
            let sizes: Vec<f32> = query.iter().map(|q| q.abs() * self.deviations).collect();
            dot(query, mean) + dot(&sizes, std)
        };
        if self.per_query {
            let list = |query: &&[f32]| {
                self.moments.iter().map(|moments| score(query, moments) * self.scale).collect()
            };
            return Blocks::PerQuery(queries.iter().map(list).collect());
        }
        let sum = |moments| queries.iter().map(|query| f64::from(score(query, moments))).sum();
        Blocks::Summed(self.moments.iter().map(sum).collect())
    }

    fn token_logits(&self, query: &[f32], tokens: &[u32]) -> Vec<f32> {
        self.tokens.token_logits(query, tokens)
    }
}

/// The mean of a block's keys and `QUARTERS` quarters of their standard deviations, dimension by dimension.
pub fn mean_std<const QUARTERS: u32, const PER_QUERY: bool>(keys: &Keys<'_>) -> Box<dyn Index> {
    let moments = (0..keys.blocks()).map(|block| {
        let count = keys.block as f32;
        let mut mean = vec![0.0; keys.head_dim];
        for row in keys.of_block(block) {
            mean.iter_mut().zip(row).for_each(|(m, k)| *m += k / count);
        }
        let mut std = vec![0.0f32; keys.head_dim];
        for row in keys.of_block(block) {
            let squares = row.iter().zip(&mean).map(|(k, m)| (k - m).powi(2) / count);
            std.iter_mut().zip(squares).for_each(|(s, square)| *s += square);
        }
        std.iter_mut().for_each(|s| *s = s.sqrt());
        (mean, std)
    });
    Box::new(MeanStd {
        moments: moments.collect(),
        deviations: QUARTERS as f32 / 4.0,
        scale: keys.scale,
        per_query: PER_QUERY,
        tokens: best_token::<32, 4>(keys),
    })
}
