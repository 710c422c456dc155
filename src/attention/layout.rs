//! How keys and values lie in a cache.

use super::{Shape, Values};
use crate::{Error, Result};

/// How one layer's keys and values lie in its cache: f16, little-endian, of each physical block and KV head token after token. Where a
/// buffer holds too much for a kernel, each layout has several ranges instead, of some blocks each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvLayout {
    /// In one buffer: \[block\]\[KV head\]\[keys, values\]\[token of the block\]\[dimension\]; without values where those are the first
    /// numbers of the keys.
    Joined,
    /// In two buffers, or in two ranges of one: \[block\]\[KV head\]\[token of the block\]\[dimension\] keys, and values likewise. Blocks
    /// and KV heads begin where the strides say, in both alike.
    Apart(Strides),
}

/// Numbers, of two bytes each, from where something begins to where the next does: multiples of 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strides {
    /// From one physical block to the next.
    pub block: u32,
    /// From one KV head of a block to the next.
    pub head: u32,
}

impl KvLayout {
    /// Two buffers in which nothing lies between one block and the next, nor between KV heads.
    pub fn apart(shape: &Shape) -> Self {
        // Any shape may come here; it is checked where it is used.
        let head = shape.block.saturating_mul(shape.head_dim);
        Self::Apart(Strides { block: shape.kv_heads.saturating_mul(head), head })
    }

    /// Checks that segments of so many blocks can lie so. Pure.
    ///
    /// # Errors
    /// [`Error::Argument`] for strides that are no multiples of 8, or by which the rows of two KV heads or blocks would overlap; for values
    /// that are a part of the keys, and so cannot be apart.
    pub fn validate(&self, shape: &Shape, blocks: u32) -> Result<()> {
        let Self::Apart(Strides { block, head }) = *self else { return Ok(()) };
        if shape.values != Values::Own {
            let limit = "values that are a part of the keys are in their buffer";
            return Err(Error::argument("the layout of keys and values", "apart", limit));
        }
        for (what, stride) in [("blocks", block), ("KV heads", head)] {
            if !stride.is_multiple_of(8) {
                let what = format!("the stride of {what}");
                return Err(Error::argument(what, stride, "it must be a multiple of 8"));
            }
        }
        let rows = self.head_numbers(shape);
        let [block, head] = [block, head].map(u64::from);
        let all = |count: u32, stride: u64| u64::from(count.max(1) - 1) * stride + rows;
        let (blocks, heads) = (blocks.max(1), shape.kv_heads);
        let heads_in_blocks = (heads == 1 || head >= rows) && block >= all(heads, head);
        let blocks_in_heads = (heads == 1 || head >= all(blocks, block)) && block >= rows;
        if blocks > 1 && !heads_in_blocks && !blocks_in_heads || heads > 1 && head < rows {
            let value = format!("{block} of blocks and {head} of KV heads");
            let limit = format!("a KV head has {rows} numbers of a block, which would overlap");
            return Err(Error::argument("the strides", value, limit));
        }
        Ok(())
    }

    /// Bytes of a range that holds so many blocks, 1 at least: from its first number to its last.
    pub fn bytes(&self, shape: &Shape, blocks: u32) -> u64 {
        let last = self.first_number(shape, blocks.max(1) - 1, shape.kv_heads.max(1) - 1);
        last.saturating_add(self.head_numbers(shape)).saturating_mul(2)
    }

    /// Bytes from the beginning of a range to the key of a token: the `token`-th of this block of it.
    pub fn key_offset(&self, shape: &Shape, block: u32, kv_head: u32, token: u32) -> u64 {
        let within = u64::from(token) * u64::from(shape.head_dim);
        self.first_number(shape, block, kv_head).saturating_add(within).saturating_mul(2)
    }

    /// Bytes from the beginning of a range to the token's value: of the range of values, where that is another. Of values that are
    /// the first numbers of the keys this is the key itself.
    pub fn value_offset(&self, shape: &Shape, block: u32, kv_head: u32, token: u32) -> u64 {
        let behind = match self {
            Self::Joined => (shape.cached_rows() - 1) * shape.block * shape.head_dim,
            Self::Apart(_) => 0,
        };
        self.key_offset(shape, block, kv_head, token) + u64::from(behind) * 2
    }

    /// Whether ranges of one buffer, each of so many blocks from a byte on, have some KV head of some block in the same place.
    pub(crate) fn meet(&self, shape: &Shape, one: (u64, u32), other: (u64, u32)) -> bool {
        let strides = self.strides(shape);
        let [block, head] = [strides.block, strides.head].map(|stride| i128::from(stride) * 2);
        let length = i128::from(self.head_numbers(shape)) * 2;
        let (most, least) = (i128::from(one.1) - 1, 1 - i128::from(other.1));
        let heads = i128::from(shape.kv_heads) - 1;
        (-heads..=heads).any(|heads| {
            let from = i128::from(one.0) - i128::from(other.0) + heads * head;
            // So many blocks bring them the closest.
            let blocks = (-from).checked_div_euclid(block).unwrap_or(0);
            (blocks - 1..=blocks + 1)
                .map(|blocks| blocks.clamp(least, most))
                .any(|blocks| (from + blocks * block).abs() < length)
        })
    }

    fn strides(&self, shape: &Shape) -> Strides {
        match *self {
            Self::Apart(strides) => strides,
            Self::Joined => {
                let tokens = shape.cached_rows().saturating_mul(shape.block);
                let head = tokens.saturating_mul(shape.head_dim);
                Strides { block: shape.kv_heads.saturating_mul(head), head }
            }
        }
    }

    /// Where a KV head of a block begins, in numbers.
    fn first_number(&self, shape: &Shape, block: u32, kv_head: u32) -> u64 {
        let strides = self.strides(shape);
        let [blocks, heads] = [(block, strides.block), (kv_head, strides.head)]
            .map(|(count, stride)| u64::from(count) * u64::from(stride));
        blocks.saturating_add(heads)
    }

    /// Numbers that follow one another, of a KV head of a block.
    fn head_numbers(&self, shape: &Shape) -> u64 {
        let rows = if *self == Self::Joined { shape.cached_rows() } else { 1 };
        u64::from(rows) * u64::from(shape.block) * u64::from(shape.head_dim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn shape() -> Shape {
        Shape { block: 16, ..Shape::new(3, 2, 32, false) }
    }

    fn apart(block: u32, head: u32) -> KvLayout {
        KvLayout::Apart(Strides { block, head })
    }

    #[test]
    fn offsets_and_sizes_are_those_of_the_arrays() {
        let (shape, joined) = (shape(), KvLayout::Joined);
        let apart = KvLayout::apart(&shape);
        assert_eq!(joined.bytes(&shape, 5), 5 * shape.block_bytes());
        assert_eq!(apart.bytes(&shape, 5), 5 * shape.block_bytes() / 2);
        assert_eq!(joined.key_offset(&shape, 2, 1, 7), 2 * 6144 + 2048 + 7 * 64);
        assert_eq!(joined.value_offset(&shape, 2, 1, 7), 2 * 6144 + 2048 + 1024 + 7 * 64);
        for offset in [apart.key_offset(&shape, 2, 1, 7), apart.value_offset(&shape, 2, 1, 7)] {
            assert_eq!(offset, 2 * 3072 + 1024 + 7 * 64);
        }
        let latent = Shape { block: 16, ..Shape::latent(2, 64, 32, 64) };
        assert_eq!(joined.value_offset(&latent, 1, 0, 3), joined.key_offset(&latent, 1, 0, 3));
    }

    #[test]
    fn strides_are_refused_that_no_two_arrays_have() {
        let shape = shape();
        // Heads in blocks, with gaps or without; blocks in heads.
        for (block, head) in [(1536, 512), (2000, 512), (4096, 1024), (512, 2048), (520, 2080)] {
            apart(block, head).validate(&shape, 4).unwrap();
        }
        // Of one block and one head strides do not matter.
        apart(0, 512).validate(&shape, 1).unwrap();
        apart(512, 0).validate(&Shape { kv_heads: 1, ..shape }, 4).unwrap();
        for (block, head, message) in [
            (1540, 512, "the stride of blocks is 1540, but it must be a multiple of 8"),
            (1536, 516, "the stride of KV heads is 516, but"),
            (1536, 504, "the strides is 1536 of blocks and 504 of KV heads, but a KV head has 512"),
            (1528, 512, "the strides is 1528 of blocks and 512"),
            (512, 2040, "which would overlap"),
        ] {
            let error = apart(block, head).validate(&shape, 4).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
        let latent = Shape::latent(2, 64, 32, 64);
        let error = KvLayout::apart(&latent).validate(&latent, 4).unwrap_err().to_string();
        assert!(error.contains("the layout of keys and values is apart, but"), "{error}");
        KvLayout::Joined.validate(&latent, 4).unwrap();
    }

    #[test]
    fn ranges_meet_where_some_byte_is_in_both() {
        let shape = shape();
        let blocks = 3;
        for layout in [KvLayout::Joined, apart(1536, 512), apart(2048, 1024), apart(528, 4096)] {
            let length = layout.head_numbers(&shape) * 2;
            // Everything here is a multiple of 16 bytes.
            let sixteens = |from: u64, blocks: u32| -> HashSet<u64> {
                let heads = (0..blocks).flat_map(|b| (0..3).map(move |h| (b, h)));
                let starts = heads.map(|(b, h)| (from + layout.key_offset(&shape, b, h, 0)) / 16);
                starts.flat_map(|at| at..at + length / 16).collect()
            };
            let here = sixteens(1 << 16, blocks);
            for far in (0..1 << 17).step_by(512) {
                for others in [1, 2, 5] {
                    let shared = sixteens(far, others).iter().any(|at| here.contains(at));
                    let met = layout.meet(&shape, (1 << 16, blocks), (far, others));
                    assert_eq!(met, shared, "{layout:?} {far} {others}");
                }
            }
        }
    }
}
