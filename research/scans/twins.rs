//! The scores of a scan as the CPU computes them, from each layout's definition.

use super::stage::Stage;
use super::{BLOCK, KV_HEADS};
use asynctls::attention::Shape;
use asynctls::reference::index::{BlockQuery, Range, unpack_codes};
use asynctls::reference::select::log_sum_exp;
use half::f16;

/// What the scoring head's block is scored from.
pub struct Block<'a> {
    pub query: &'a [u8],
    pub scale: f64,
    pub record: &'a [u8],
}

/// The inputs of a scan besides the index.
pub struct Inputs {
    /// Physical block of each row's blocks.
    pub table: Vec<u32>,
    pub queries: Vec<u8>,
    pub scales: Vec<f32>,
}

/// How the logits of a block's tokens become its score.
#[derive(Clone, Copy, PartialEq)]
pub enum Fold {
    Max,
    LogSumExp,
}

/// Every score, in the order of the `scores` binding.
pub fn scores(
    stage: &Stage,
    inputs: &Inputs,
    index: &[u8],
    rows: usize,
    blocks: usize,
) -> Vec<f64> {
    let (heads, query_bytes) = (stage.heads(), stage.query.bytes());
    let record_bytes = stage.record.bytes();
    let mut scores = Vec::new();
    for row in 0..rows {
        for head in 0..heads {
            let at = row * heads + head;
            let kv_head = head * KV_HEADS / heads;
            for block in 0..blocks {
                let physical = inputs.table[row * blocks + block] as usize;
                scores.push((stage.twin)(&Block {
                    query: &inputs.queries[at * query_bytes..][..query_bytes],
                    scale: f64::from(inputs.scales[at]),
                    record: &index[(physical * KV_HEADS + kv_head) * record_bytes..]
                        [..record_bytes],
                }));
            }
        }
    }
    scores
}

fn fold(fold: Fold, logits: impl Iterator<Item = f64> + Clone) -> f64 {
    let largest = logits.clone().fold(f64::NEG_INFINITY, f64::max);
    match fold {
        Fold::Max => largest,
        Fold::LogSumExp => largest + logits.map(|l| (l - largest).exp()).sum::<f64>().ln(),
    }
}

fn half_at(bytes: &[u8], i: usize) -> f64 {
    f16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]).to_f64()
}

fn float_at(bytes: &[u8], i: usize) -> f32 {
    f32::from_le_bytes([bytes[4 * i], bytes[4 * i + 1], bytes[4 * i + 2], bytes[4 * i + 3]])
}

/// The code of a token's channel: see `codes.wgsl`.
fn code(record: &[u8], channels: usize, bits: usize, token: usize, channel: usize) -> i32 {
    let words = channels * bits / 32;
    let a_word = 32 / bits;
    let word = channel / a_word;
    let (plane, byte) = (channel % a_word / 4, channel % 4);
    let at =
        if words <= 4 { token * words + word } else { (word / 4 * BLOCK + token) * 4 + word % 4 };
    let stored = record[at * 4 + byte];
    if bits == 8 {
        i32::from(stored as i8)
    } else {
        i32::from(stored) >> (plane * bits) & ((1 << bits) - 1)
    }
}

/// Codes with a frozen step: int8 queries, byte by byte in the order of channels.
pub fn codes(channels: usize, bits: usize, how: Fold) -> impl Fn(&Block) -> f64 {
    move |block| {
        let logit = |token| -> f64 {
            let sum: i32 = (0..channels)
                .map(|c| {
                    i32::from(block.query[c] as i8) * code(block.record, channels, bits, token, c)
                })
                .sum();
            block.scale * f64::from(sum)
        };
        fold(how, (0..BLOCK).map(logit))
    }
}

/// 32 channels of 4 bits with a step and a minimum per block and channel.
pub fn codes_block_step(is_int8: bool, how: Fold) -> impl Fn(&Block) -> f64 {
    move |block| {
        let steps = &block.record[block.record.len() - 128..];
        // In f32, as the shader folds: what is quantised must round alike.
        let query = |c: usize| float_at(block.query, c);
        let weights: Vec<f32> = (0..32).map(|c| query(c) * half_at(steps, c) as f32).collect();
        let offset: f64 = (0..32).map(|c| f64::from(query(c)) * half_at(steps, 32 + c)).sum();
        // Eight channels of a head are four bytes of low nibbles, then four of high ones: the order of channels.
        let largest = weights.iter().fold(0.0f32, |m, w| m.max(w.abs()));
        let used: Vec<f64> = if is_int8 {
            let unit = f64::from(largest) / 127.0;
            weights.iter().map(|w| f64::from((w * (127.0 / largest)).round()) * unit).collect()
        } else {
            weights.iter().copied().map(f64::from).collect()
        };
        let logit = |token| -> f64 {
            let sum: f64 =
                (0..32).map(|c| used[c] * f64::from(code(block.record, 32, 4, token, c))).sum();
            block.scale * (offset + sum)
        };
        fold(how, (0..BLOCK).map(logit))
    }
}

/// Bounds of `runs` runs of tokens on 128 channels.
pub fn minmax(runs: usize) -> impl Fn(&Block) -> f64 {
    move |block| {
        let run = |run: usize| -> f64 {
            let sum: f64 = (0..128)
                .map(|c| {
                    f64::from(float_at(block.query, c)) * half_at(block.record, run * 256 + 128 + c)
                        + f64::from(float_at(block.query, 128 + c))
                            * half_at(block.record, run * 256 + c)
                })
                .sum();
            block.scale * sum
        };
        fold(Fold::Max, (0..runs).map(run))
    }
}

/// 128 signs a token against 128 signs of the query.
pub fn sign_popcount(block: &Block) -> f64 {
    let logit = |token: usize| -> f64 {
        let differ: u32 = block.record[token * 16..][..16]
            .iter()
            .zip(block.query)
            .map(|(k, q)| (k ^ q).count_ones())
            .sum();
        block.scale * (128.0 - 2.0 * f64::from(differ))
    };
    fold(Fold::Max, (0..BLOCK).map(logit))
}

/// Eight int8 vectors of 128 dimensions, 16 dimensions of each in turn, and their scales.
pub fn rank8(block: &Block) -> f64 {
    let scales = &block.record[1024..];
    let logit = |vector: usize| -> f64 {
        let sum: i32 = (0..128)
            .map(|c| {
                let stored = block.record[(c / 16 * 8 + vector) * 16 + c % 16];
                i32::from(block.query[c] as i8) * i32::from(stored as i8)
            })
            .sum();
        block.scale * half_at(scales, vector) * f64::from(sum)
    };
    fold(Fold::Max, (0..8).map(logit))
}

/// What `read.wgsl` makes of a token's 16 bytes and the query's.
pub fn read(block: &Block) -> f64 {
    let logit = |token: usize| -> f64 {
        let half = |i: usize| {
            let row = &block.record[token * 16..];
            u16::from_le_bytes([row[4 * i], row[4 * i + 1]])
                ^ u16::from_le_bytes([block.query[4 * i], block.query[4 * i + 1]])
        };
        block.scale * f64::from(half(0) ^ half(1) ^ half(2) ^ half(3))
    };
    fold(Fold::Max, (0..BLOCK).map(logit))
}

/// What the product's `block_score` makes of a header, codes and a query.
pub fn product(shape: Shape) -> impl Fn(&Block) -> f64 {
    move |block| {
        let (format, count) = (shape.index, shape.index.channels as usize);
        let range = |c: usize| Range {
            zero: half_at(block.record, 2 * c) as f32,
            scale: half_at(block.record, 2 * c + 1) as f32,
        };
        let ranges: Vec<Range> = (0..count).map(range).collect();
        let floats = block.query.chunks_exact(4).take(count);
        let query: Vec<f32> =
            floats.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let query = BlockQuery::new(&query, &ranges);
        let logit = |token: &[u8]| {
            let words = token.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            let codes = unpack_codes(&words.collect::<Vec<_>>(), format);
            query.logit(&codes, format) * f64::from(shape.scale())
        };
        let tokens = block.record[count * 4..].chunks_exact(count / 2);
        log_sum_exp(&tokens.map(logit).collect::<Vec<_>>())
    }
}
