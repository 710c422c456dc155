//! Choosing the channels that an index keeps, from samples.

use crate::attention::{ChannelStats, Shape};
use crate::{Error, Result};

/// Chooses the index channels of a layer from samples of its queries and keys, as the paper does: the rotary pairs of
/// dimensions with the largest mean over a group of max |query|, times max |key|. A thousand tokens of any text do; the
/// choice can then be kept.
///
/// `queries` are \[token\]\[query head\]\[dimension\] and `keys` \[token\]\[KV head\]\[dimension\], turned already, of as many tokens.
/// Gives \[KV head\]\[channel\], ascending by pair: what [`Codes::channels`](super::Codes::channels) wants.
///
/// # Errors
/// As [`Shape::validate`]; [`Error::Argument`] for no whole number of tokens, or another number of keys than of queries.
pub fn choose_channels(shape: &Shape, queries: &[f32], keys: &[f32]) -> Result<Vec<u32>> {
    shape.validate()?;
    let dim = shape.head_dim as usize;
    let (heads, group) = (shape.kv_heads as usize, shape.group as usize);
    let tokens = keys.len() / (heads * dim);
    if tokens == 0 || !keys.len().is_multiple_of(heads * dim) {
        let limit = format!("a token's have {}, and one token is needed at least", heads * dim);
        return Err(Error::argument("the number of floats of keys", keys.len(), limit));
    }
    if queries.len() != tokens * heads * group * dim {
        let limit = format!("{tokens} tokens, as there are keys of, have {}", keys.len() * group);
        return Err(Error::argument("the number of floats of queries", queries.len(), limit));
    }
    let mut channels = Vec::with_capacity(shape.channels_len() as usize);
    for head in 0..heads {
        let mut stats = ChannelStats::new(group, dim);
        for token in 0..tokens {
            let query = |g: usize| &queries[((token * heads + head) * group + g) * dim..][..dim];
            let of_group: Vec<&[f32]> = (0..group).map(query).collect();
            stats.fold(&of_group, &keys[(token * heads + head) * dim..][..dim]);
        }
        channels.extend(stats.choose(shape.index.channels, shape.rope_interleaved));
    }
    Ok(channels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;
    use rand_pcg::rand_core::Rng;

    #[test]
    fn channels_are_those_that_the_twin_chooses() {
        for interleaved in [false, true] {
            let shape = Shape::new(2, 3, 64, interleaved);
            let mut random = rand_pcg::Pcg32::new(7, 11);
            let mut floats = |count: usize| -> Vec<f32> {
                let float = |word: u32| (word >> 8) as f32 / (1 << 23) as f32 - 1.0;
                (0..count).map(|_| f16::from_f32(float(random.next_u32())).to_f32()).collect()
            };
            let (queries, keys) = (floats(9 * 6 * 64), floats(9 * 2 * 64));
            let chosen = choose_channels(&shape, &queries, &keys).unwrap();
            for head in 0..2 {
                let mut stats = ChannelStats::new(3, 64);
                for token in 0..9 {
                    let query = |g: usize| &queries[(token * 6 + head * 3 + g) * 64..][..64];
                    stats.fold(
                        &[query(0), query(1), query(2)],
                        &keys[(token * 2 + head) * 64..][..64],
                    );
                }
                let count = shape.index.channels as usize;
                let want = stats.choose(shape.index.channels, interleaved);
                assert_eq!(chosen[head * count..][..count], want);
            }
            let message =
                |q: &[f32], k: &[f32]| choose_channels(&shape, q, k).unwrap_err().to_string();
            assert!(message(&queries, &[]).contains("the number of floats of keys is 0, but"));
            assert!(message(&queries, &keys[1..]).contains("the number of floats of keys"));
            assert!(message(&queries[1..], &keys).contains("the number of floats of queries"));
        }
    }
}
