//! What a candidate index must tell: how much each sealed block and each token matters to a query group.

use asynctls::attention::ChannelStats;

/// The keys of one KV head, and what an index may be built from.
pub struct Keys<'a> {
    /// Token, dimension.
    pub rows: &'a [f32],
    pub head_dim: usize,
    /// Of dot products, for logits.
    pub scale: f32,
    pub block: usize,
    /// Whether rotary pairs are neighbours.
    pub interleaved: bool,
    /// Extremes of the first tokens.
    pub stats: &'a ChannelStats,
    /// Extremes over all KV heads of the layer.
    pub layer_stats: &'a ChannelStats,
}

impl Keys<'_> {
    pub fn row(&self, token: usize) -> &[f32] {
        &self.rows[token * self.head_dim..][..self.head_dim]
    }

    pub fn tokens(&self) -> usize {
        self.rows.len() / self.head_dim
    }

    /// Whole blocks.
    pub fn blocks(&self) -> usize {
        self.tokens() / self.block
    }

    /// Rows of a block.
    pub fn of_block(&self, block: usize) -> impl Iterator<Item = &[f32]> {
        (block * self.block..(block + 1) * self.block).map(|token| self.row(token))
    }
}

/// An index of one KV head.
pub trait Index: Send + Sync {
    /// A logit for each sealed block and query of the group, before the softmax over blocks; or, for a scorer that sums
    /// over the group itself, one list.
    fn block_logits(&self, queries: &[&[f32]]) -> Blocks;

    /// The logit of a token, up to what is the same for all tokens of the query.
    fn token_logits(&self, query: &[f32], tokens: &[u32]) -> Vec<f32>;
}

pub enum Blocks {
    /// A list a query: softmaxed over blocks and averaged over queries.
    PerQuery(Vec<Vec<f32>>),
    /// Ranked as it is.
    Summed(Vec<f64>),
    /// Every block is kept.
    All,
}

/// A layout of an index that may win something.
pub struct Candidate {
    pub name: &'static str,
    /// Bytes a token and KV head that level 1 reads, at head dimension 128, for blocks of 64.
    pub bytes: f64,
    pub build: fn(&Keys<'_>) -> Box<dyn Index>,
}

/// Eight sums, so that the compiler may use vectors.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    for (a, b) in a.chunks_exact(8).zip(b.chunks_exact(8)) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    sums.iter().sum()
}

pub fn log_sum_exp(values: &[f32]) -> f32 {
    let largest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    largest + values.iter().map(|v| (v - largest).exp()).sum::<f32>().ln()
}

pub fn largest(values: &[f32]) -> f32 {
    values.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}
