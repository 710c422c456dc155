//! Summaries of a block for level 1; level 2 ranks tokens by the product's codes.

use super::candidate::{Blocks, Index, Keys, dot, largest};
use super::codes::best_token;
use asynctls::attention::BlockScorer;
use asynctls::reference::summary::SummaryTwin;

struct Bounds {
    /// Smallest and largest keys of each sub-block.
    bounds: Vec<Vec<Vec<f32>>>,
    twin: &'static SummaryTwin,
    per_block: usize,
    tokens: Box<dyn Index>,
}

impl Index for Bounds {
    fn block_logits(&self, queries: &[&[f32]]) -> Blocks {
        let scores: Vec<f64> =
            self.bounds.iter().map(|bounds| self.twin.score(queries, bounds)).collect();
        let best = |scores: &[f64]| scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Blocks::Summed(scores.chunks_exact(self.per_block).map(best).collect())
    }

    fn token_logits(&self, query: &[f32], tokens: &[u32]) -> Vec<f32> {
        self.tokens.token_logits(query, tokens)
    }
}

/// The paper's bounds, of sub-blocks of `TOKENS` tokens; a block scores as its best sub-block.
pub fn min_max<const TOKENS: usize>(keys: &Keys<'_>) -> Box<dyn Index> {
    let twin = SummaryTwin::of(BlockScorer::MinMax).expect("the bounds' twin");
    let bounds = (0..keys.blocks() * keys.block / TOKENS)
        .map(|part| {
            let rows: Vec<&[f32]> =
                (part * TOKENS..(part + 1) * TOKENS).map(|t| keys.row(t)).collect();
            twin.rows(&rows)
        })
        .collect();
    let (per_block, tokens) = (keys.block / TOKENS, best_token::<32, 4>(keys));
    Box::new(Bounds { bounds, twin, per_block, tokens })
}

struct Signs {
    /// Token, dimension of the Hadamard transform: +-1 times the key's size over all dimensions.
    signs: Vec<f32>,
    head_dim: usize,
    scale: f32,
    block: usize,
    tokens: Box<dyn Index>,
}

/// The Walsh-Hadamard transform, scaled to keep lengths.
fn hadamard(row: &[f32]) -> Vec<f32> {
    let mut row = row.to_vec();
    let mut half = 1;
    while half < row.len() {
        for start in (0..row.len()).step_by(2 * half) {
            for i in start..start + half {
                (row[i], row[i + half]) = (row[i] + row[i + half], row[i] - row[i + half]);
            }
        }
        half *= 2;
    }
    let scale = 1.0 / (row.len() as f32).sqrt();
    row.iter().map(|v| v * scale).collect()
}

impl Index for Signs {
    fn block_logits(&self, queries: &[&[f32]]) -> Blocks {
        // A key of length |k| has about |k| / sqrt(d) on each transformed dimension.
        let per_query = queries.iter().map(|query| {
            let turned = hadamard(query);
            let logits: Vec<f32> = self
                .signs
                .chunks_exact(self.head_dim)
                .map(|row| dot(&turned, row) * self.scale)
                .collect();
            logits.chunks_exact(self.block).map(largest).collect()
        });
        Blocks::PerQuery(per_query.collect())
    }

    fn token_logits(&self, query: &[f32], tokens: &[u32]) -> Vec<f32> {
        self.tokens.token_logits(query, tokens)
    }
}

/// A sign for each dimension of a token's transformed key; the mean key is taken off first, since what all keys share
/// would decide most signs.
pub fn signs(keys: &Keys<'_>) -> Box<dyn Index> {
    let d = keys.head_dim;
    let count = keys.tokens() as f32;
    let mut mean = vec![0.0; d];
    for t in 0..keys.tokens() {
        for (m, k) in mean.iter_mut().zip(keys.row(t)) {
            *m += k / count;
        }
    }
    let mut signs = Vec::with_capacity(keys.rows.len());
    for t in 0..keys.blocks() * keys.block {
        let centred: Vec<f32> = keys.row(t).iter().zip(&mean).map(|(k, m)| k - m).collect();
        let size = (dot(&centred, &centred) / d as f32).sqrt();
        signs.extend(hadamard(&centred).iter().map(|v| size.copysign(*v)));
    }
    let (scale, block) = (keys.scale, keys.block);
    Box::new(Signs { signs, head_dim: d, scale, block, tokens: best_token::<32, 4>(keys) })
}

/// A block's directions, and each token's coordinates on them, both rounded to 8 bits.
struct Summary {
    directions: Vec<Vec<f32>>,
    coordinates: Vec<Vec<f32>>,
}

struct Rank {
    blocks: Vec<Summary>,
    scale: f32,
    tokens: Box<dyn Index>,
}

impl Index for Rank {
    fn block_logits(&self, queries: &[&[f32]]) -> Blocks {
        let per_query = queries.iter().map(|query| {
            self.blocks
                .iter()
                .map(|Summary { directions, coordinates }| {
                    let turned: Vec<f32> = directions.iter().map(|v| dot(query, v)).collect();
                    let logits: Vec<f32> =
                        coordinates.iter().map(|c| dot(&turned, c) * self.scale).collect();
                    largest(&logits)
                })
                .collect()
        });
        Blocks::PerQuery(per_query.collect())
    }

    fn token_logits(&self, query: &[f32], tokens: &[u32]) -> Vec<f32> {
        self.tokens.token_logits(query, tokens)
    }
}

// Rounded to 255 levels of its own range.
fn int8(row: Vec<f32>) -> Vec<f32> {
    let most = row.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    if most == 0.0 {
        return row;
    }
    row.iter().map(|v| (v / most * 127.0).round() * most / 127.0).collect()
}

/// The eight directions that keep most of a block's keys, by power iteration with deflation, and every token's place on
/// them (after LOCKS and ShadowKV).
pub fn rank8(keys: &Keys<'_>) -> Box<dyn Index> {
    let d = keys.head_dim;
    let blocks = (0..keys.blocks()).map(|block| {
        let mut left: Vec<Vec<f32>> = keys.of_block(block).map(<[f32]>::to_vec).collect();
        let mut directions = Vec::new();
        for r in 0..8 {
            let mut v: Vec<f32> = (0..d).map(|i| ((i * 7 + r * 13) % 11) as f32 - 5.0).collect();
            for _ in 0..12 {
                let mut next = vec![0.0; d];
                for row in &left {
                    let along = dot(row, &v);
                    next.iter_mut().zip(row).for_each(|(n, k)| *n += along * k);
                }
                let length = dot(&next, &next).sqrt().max(1e-20);
                v = next.into_iter().map(|n| n / length).collect();
            }
            let v = int8(v);
            let length = dot(&v, &v).max(1e-20);
            for row in &mut left {
                let along = dot(row, &v) / length;
                row.iter_mut().zip(&v).for_each(|(k, v)| *k -= along * v);
            }
            directions.push(v);
        }
        let coordinates = keys
            .of_block(block)
            .map(|row| {
                let along = |v: &Vec<f32>| dot(row, v) / dot(v, v).max(1e-20);
                int8(directions.iter().map(along).collect())
            })
            .collect();
        Summary { directions, coordinates }
    });
    Box::new(Rank {
        blocks: blocks.collect(),
        scale: keys.scale,
        tokens: best_token::<32, 4>(keys),
    })
}

struct Oracle {
    rows: Vec<f32>,
    head_dim: usize,
    scale: f32,
    block: usize,
}

impl Oracle {
    fn logit(&self, query: &[f32], token: usize) -> f32 {
        let row = &self.rows[token * self.head_dim..][..self.head_dim];
        dot(query, row) * self.scale
    }
}

impl Index for Oracle {
    fn block_logits(&self, queries: &[&[f32]]) -> Blocks {
        let tokens = self.rows.len() / self.head_dim / self.block * self.block;
        let per_query = queries.iter().map(|query| {
            let logits: Vec<f32> = (0..tokens).map(|t| self.logit(query, t)).collect();
            logits.chunks_exact(self.block).map(super::candidate::log_sum_exp).collect()
        });
        Blocks::PerQuery(per_query.collect())
    }

    fn token_logits(&self, query: &[f32], tokens: &[u32]) -> Vec<f32> {
        tokens.iter().map(|&t| self.logit(query, t as usize)).collect()
    }
}

/// The keys themselves.
pub fn oracle(keys: &Keys<'_>) -> Box<dyn Index> {
    let (rows, head_dim) = (keys.rows.to_vec(), keys.head_dim);
    Box::new(Oracle { rows, head_dim, scale: keys.scale, block: keys.block })
}
