//! Codes of a few bits on a few channels, with steps frozen or per block.

use super::candidate::{Blocks, Index, Keys, dot, largest, log_sum_exp};
use asynctls::attention::IndexFormat;
use asynctls::reference::index::{BlockQuery, Range};

/// Codes whose minimum and step are those of the first tokens, for all blocks.
pub struct Frozen {
    ids: Vec<u32>,
    ranges: Vec<Range>,
    /// Token, channel.
    codes: Vec<f32>,
    block: usize,
    reduce: fn(&[f32]) -> f32,
    scale: f32,
}

/// Tokens that freeze the ranges.
const FIRST: usize = 1024;

fn format(channels: u32, bits: u32) -> IndexFormat {
    IndexFormat { channels, bits }
}

fn kept(ids: &[u32], row: &[f32]) -> Vec<f32> {
    ids.iter().map(|&id| row[id as usize]).collect()
}

impl Frozen {
    fn new(keys: &Keys<'_>, ids: Vec<u32>, bits: u32, reduce: fn(&[f32]) -> f32) -> Self {
        let format = format(ids.len() as u32, bits);
        let first = || 0..keys.tokens().min(FIRST);
        let range = |&id: &u32| Range::of(first().map(|t| keys.row(t)[id as usize]), format);
        let ranges: Vec<Range> = ids.iter().map(range).collect();
        let codes = (0..keys.tokens())
            .flat_map(|t| kept(&ids, keys.row(t)).into_iter().zip(&ranges).collect::<Vec<_>>())
            .map(|(key, range)| range.exact_code(key, format).round() as f32)
            .collect();
        Self { ids, ranges, codes, block: keys.block, reduce, scale: keys.scale }
    }

    fn row(&self, token: usize) -> &[f32] {
        let count = self.ids.len();
        &self.codes[token * count..][..count]
    }

    // The query is rounded to int8; the term of the zeros is the same for every token.
    fn logits(&self, query: &[f32], tokens: impl Iterator<Item = usize>) -> Vec<f32> {
        let query = BlockQuery::new(&kept(&self.ids, query), &self.ranges);
        let folded: Vec<f32> =
            query.codes.iter().map(|code| (code.round() * query.sigma) as f32).collect();
        tokens.map(|t| dot(&folded, self.row(t)) * self.scale).collect()
    }

    fn blocks(&self) -> usize {
        self.codes.len() / self.ids.len() / self.block
    }
}

impl Index for Frozen {
    fn block_logits(&self, queries: &[&[f32]]) -> Blocks {
        let per_query = queries.iter().map(|query| {
            let logits = self.logits(query, 0..self.blocks() * self.block);
            logits.chunks_exact(self.block).map(self.reduce).collect()
        });
        Blocks::PerQuery(per_query.collect())
    }

    fn token_logits(&self, query: &[f32], tokens: &[u32]) -> Vec<f32> {
        self.logits(query, tokens.iter().map(|&t| t as usize))
    }
}

/// Channels of each KV head, steps frozen, the block's best token.
pub fn best_token<const CHANNELS: u32, const BITS: u32>(keys: &Keys<'_>) -> Box<dyn Index> {
    let channels = keys.stats.choose(CHANNELS, keys.interleaved);
    Box::new(Frozen::new(keys, channels, BITS, largest))
}

/// The block's summed exponentials in place of its best token.
pub fn all_tokens<const CHANNELS: u32, const BITS: u32>(keys: &Keys<'_>) -> Box<dyn Index> {
    let channels = keys.stats.choose(CHANNELS, keys.interleaved);
    Box::new(Frozen::new(keys, channels, BITS, log_sum_exp))
}

/// One set of channels for all KV heads of a layer; the ranges are each head's own.
pub fn layer_channels(keys: &Keys<'_>) -> Box<dyn Index> {
    Box::new(Frozen::new(keys, keys.layer_stats.choose(32, keys.interleaved), 4, largest))
}

/// Tokens of every block: no level 1.
pub struct Everything(Box<dyn Index>);

impl Index for Everything {
    fn block_logits(&self, _: &[&[f32]]) -> Blocks {
        Blocks::All
    }

    fn token_logits(&self, query: &[f32], tokens: &[u32]) -> Vec<f32> {
        self.0.token_logits(query, tokens)
    }
}

pub fn every_block(keys: &Keys<'_>) -> Box<dyn Index> {
    Box::new(Everything(best_token::<32, 4>(keys)))
}

/// A coarse scan of 2 bits that keeps twice the blocks wanted, of which the fine codes choose.
pub struct Coarse {
    coarse: Box<dyn Index>,
    fine: Box<dyn Index>,
}

impl Index for Coarse {
    fn block_logits(&self, queries: &[&[f32]]) -> Blocks {
        let (Blocks::PerQuery(coarse), Blocks::PerQuery(mut fine)) =
            (self.coarse.block_logits(queries), self.fine.block_logits(queries))
        else {
            unreachable!("codes score per query")
        };
        for (coarse, fine) in coarse.iter().zip(&mut fine) {
            // A block in the lower half of every head's coarse scan surely loses.
            let mut order: Vec<usize> = (0..coarse.len()).collect();
            order.sort_by(|&a, &b| coarse[b].total_cmp(&coarse[a]));
            for &block in &order[coarse.len() / 2..] {
                fine[block] = f32::NEG_INFINITY;
            }
        }
        Blocks::PerQuery(fine)
    }

    fn token_logits(&self, query: &[f32], tokens: &[u32]) -> Vec<f32> {
        self.fine.token_logits(query, tokens)
    }
}

pub fn coarse_first(keys: &Keys<'_>) -> Box<dyn Index> {
    Box::new(Coarse { coarse: best_token::<16, 2>(keys), fine: best_token::<32, 4>(keys) })
}

/// Codes whose minimum and step are each block's own.
pub struct PerBlock {
    channels: Vec<u32>,
    /// Token, channel: keys as their codes give them back.
    rows: Vec<f32>,
    block: usize,
    reduce: fn(&[f32]) -> f32,
    scale: f32,
}

impl PerBlock {
    fn new(keys: &Keys<'_>, channels: Vec<u32>, bits: u32, reduce: fn(&[f32]) -> f32) -> Self {
        let steps = format(0, bits).largest() as f32;
        let mut rows = Vec::with_capacity(keys.tokens() * channels.len());
        for first in (0..keys.tokens()).step_by(keys.block) {
            let tokens = first..(first + keys.block).min(keys.tokens());
            let extremes: Vec<(f32, f32)> = channels
                .iter()
                .map(|&id| {
                    let values = || tokens.clone().map(|t| keys.row(t)[id as usize]);
                    let low = values().fold(f32::INFINITY, f32::min);
                    (low, (values().fold(f32::NEG_INFINITY, f32::max) - low) / steps)
                })
                .collect();
            for t in tokens {
                rows.extend(channels.iter().zip(&extremes).map(|(&id, &(low, step))| {
                    let key = keys.row(t)[id as usize];
                    if step > 0.0 { low + ((key - low) / step).round() * step } else { low }
                }));
            }
        }
        Self { channels, rows, block: keys.block, reduce, scale: keys.scale }
    }

    fn logits(&self, query: &[f32], tokens: impl Iterator<Item = usize>) -> Vec<f32> {
        let kept = kept(&self.channels, query);
        tokens
            .map(|t| dot(&kept, &self.rows[t * kept.len()..][..kept.len()]) * self.scale)
            .collect()
    }
}

impl Index for PerBlock {
    fn block_logits(&self, queries: &[&[f32]]) -> Blocks {
        let tokens = self.rows.len() / self.channels.len() / self.block * self.block;
        let per_query = queries.iter().map(|query| {
            let logits = self.logits(query, 0..tokens);
            logits.chunks_exact(self.block).map(self.reduce).collect()
        });
        Blocks::PerQuery(per_query.collect())
    }

    fn token_logits(&self, query: &[f32], tokens: &[u32]) -> Vec<f32> {
        self.logits(query, tokens.iter().map(|&t| t as usize))
    }
}

pub fn block_steps<const CHANNELS: u32, const BITS: u32>(keys: &Keys<'_>) -> Box<dyn Index> {
    let channels = keys.stats.choose(CHANNELS, keys.interleaved);
    Box::new(PerBlock::new(keys, channels, BITS, largest))
}

pub fn block_steps_all_tokens<const CHANNELS: u32, const BITS: u32>(
    keys: &Keys<'_>,
) -> Box<dyn Index> {
    let channels = keys.stats.choose(CHANNELS, keys.interleaved);
    Box::new(PerBlock::new(keys, channels, BITS, log_sum_exp))
}
