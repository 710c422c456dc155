//! Codes of a few bits on a few channels, with steps frozen or per block.

use super::candidate::{Blocks, Index, Keys, dot, fold_query, largest, log_sum_exp};
use asynctls::attention::{Channels, IndexFormat};

/// Codes under one frozen set of channels.
pub struct Frozen {
    channels: Channels,
    /// Token, channel.
    codes: Vec<f32>,
    block: usize,
    reduce: fn(&[f32]) -> f32,
    scale: f32,
}

fn format(channels: u32, bits: u32) -> IndexFormat {
    IndexFormat { channels, bits }
}

impl Frozen {
    fn new(keys: &Keys<'_>, channels: Channels, bits: u32, reduce: fn(&[f32]) -> f32) -> Self {
        let largest = format(0, bits).largest();
        let codes = (0..keys.tokens())
            .flat_map(|t| channels.exact_codes(keys.row(t), largest))
            .map(|code| code.round() as f32)
            .collect();
        let scale = 1.0 / (keys.head_dim as f32).sqrt();
        Self { channels, codes, block: keys.block, reduce, scale }
    }

    fn row(&self, token: usize) -> &[f32] {
        let count = self.channels.ids.len();
        &self.codes[token * count..][..count]
    }

    fn logits(&self, query: &[f32], tokens: impl Iterator<Item = usize>) -> Vec<f32> {
        let folded = fold_query(&self.channels, query);
        tokens.map(|t| dot(&folded, self.row(t)) * self.scale).collect()
    }

    fn blocks(&self) -> usize {
        self.codes.len() / self.channels.ids.len() / self.block
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

/// The product's: channels of each KV head, steps frozen, the block's best token.
pub fn best_token<const CHANNELS: u32, const BITS: u32>(keys: &Keys<'_>) -> Box<dyn Index> {
    let channels = Channels::choose(keys.stats, format(CHANNELS, BITS), true);
    Box::new(Frozen::new(keys, channels, BITS, largest))
}

/// The block's summed exponentials in place of its best token.
pub fn all_tokens<const CHANNELS: u32, const BITS: u32>(keys: &Keys<'_>) -> Box<dyn Index> {
    let channels = Channels::choose(keys.stats, format(CHANNELS, BITS), true);
    Box::new(Frozen::new(keys, channels, BITS, log_sum_exp))
}

/// One set of channels for all KV heads of a layer; the steps are each head's own.
pub fn layer_channels(keys: &Keys<'_>) -> Box<dyn Index> {
    let mut channels = Channels::choose(keys.layer_stats, format(32, 4), true);
    for (i, &id) in channels.ids.iter().enumerate() {
        let (low, high) = (keys.stats.low[id as usize], keys.stats.high[id as usize]);
        channels.minima[i] = low;
        channels.steps[i] = (high - low) / 15.0;
    }
    Box::new(Frozen::new(keys, channels, 4, largest))
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
    channels: Channels,
    /// Token, channel: keys as their codes give them back.
    rows: Vec<f32>,
    block: usize,
    reduce: fn(&[f32]) -> f32,
    scale: f32,
}

impl PerBlock {
    fn new(keys: &Keys<'_>, channels: Channels, bits: u32, reduce: fn(&[f32]) -> f32) -> Self {
        let steps = format(0, bits).largest() as f32;
        let mut rows = Vec::with_capacity(keys.tokens() * channels.ids.len());
        for first in (0..keys.tokens()).step_by(keys.block) {
            let tokens = first..(first + keys.block).min(keys.tokens());
            let extremes: Vec<(f32, f32)> = channels
                .ids
                .iter()
                .map(|&id| {
                    let values = || tokens.clone().map(|t| keys.row(t)[id as usize]);
                    let low = values().fold(f32::INFINITY, f32::min);
                    (low, (values().fold(f32::NEG_INFINITY, f32::max) - low) / steps)
                })
                .collect();
            for t in tokens {
                rows.extend(channels.ids.iter().zip(&extremes).map(|(&id, &(low, step))| {
                    let key = keys.row(t)[id as usize];
                    if step > 0.0 { low + ((key - low) / step).round() * step } else { low }
                }));
            }
        }
        let scale = 1.0 / (keys.head_dim as f32).sqrt();
        Self { channels, rows, block: keys.block, reduce, scale }
    }

    fn logits(&self, query: &[f32], tokens: impl Iterator<Item = usize>) -> Vec<f32> {
        let kept: Vec<f32> = self.channels.ids.iter().map(|&id| query[id as usize]).collect();
        tokens
            .map(|t| dot(&kept, &self.rows[t * kept.len()..][..kept.len()]) * self.scale)
            .collect()
    }
}

impl Index for PerBlock {
    fn block_logits(&self, queries: &[&[f32]]) -> Blocks {
        let tokens = self.rows.len() / self.channels.ids.len() / self.block * self.block;
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
    let channels = Channels::choose(keys.stats, format(CHANNELS, BITS), true);
    Box::new(PerBlock::new(keys, channels, BITS, largest))
}

pub fn block_steps_all_tokens<const CHANNELS: u32, const BITS: u32>(
    keys: &Keys<'_>,
) -> Box<dyn Index> {
    let channels = Channels::choose(keys.stats, format(CHANNELS, BITS), true);
    Box::new(PerBlock::new(keys, channels, BITS, log_sum_exp))
}
