//! The shape of attention that kernels are compiled for.

use crate::{Error, Result};

/// Heads, dimensions and layout of one layer's attention. Every layer of a model shares one shape.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Key and value heads.
    pub kv_heads: u32,
    /// Query heads per KV head, 1 to 16.
    pub group: u32,
    /// Length of a head's query, key and value: 32, 64 or 128.
    pub head_dim: u32,
    /// Whether rotary pairs are (2i, 2i+1) (Llama's GGUF layout) rather than (i, i + head_dim / 2).
    pub rope_interleaved: bool,
}

impl Shape {
    /// Tokens in a block, the unit of storage and of level 1.
    pub const BLOCK: u32 = 64;
    /// Channels that the index keeps of each key.
    pub const CHANNELS: u32 = 32;
    /// Positions whose queries and keys choose the index channels.
    pub const STATS_TOKENS: u32 = 1024;

    /// Checks that kernels exist for this shape.
    ///
    /// # Errors
    /// [`Error::Model`] naming the dimension, its value and what is supported.
    pub fn validate(&self) -> Result<()> {
        if ![32, 64, 128].contains(&self.head_dim) {
            return Err(Error::Model(format!(
                "the head dimension is {}, but 32, 64 and 128 are supported",
                self.head_dim
            )));
        }
        if !(1..=16).contains(&self.group) {
            return Err(Error::Model(format!(
                "{} query heads share a KV head, but 1 to 16 are supported",
                self.group
            )));
        }
        if !(1..=1024).contains(&self.kv_heads) {
            return Err(Error::Model(format!(
                "there are {} KV heads, but 1 to 1024 are supported",
                self.kv_heads
            )));
        }
        Ok(())
    }

    /// Query heads.
    pub fn q_heads(&self) -> u32 {
        self.kv_heads * self.group
    }

    /// Floats in a row of queries, keys and values together.
    pub fn qkv_width(&self) -> u32 {
        (self.q_heads() + 2 * self.kv_heads) * self.head_dim
    }

    /// The factor of a logit, d^-1/2.
    pub fn scale(&self) -> f32 {
        (1.0 / f64::from(self.head_dim).sqrt()) as f32
    }

    /// Bytes of keys and values of one block in one layer, as packed f16.
    pub fn block_bytes(&self) -> u64 {
        u64::from(self.kv_heads) * 2 * u64::from(Self::BLOCK) * u64::from(self.head_dim) * 2
    }

    /// Bytes of one block's index in one layer.
    pub fn block_code_bytes(&self) -> u64 {
        u64::from(self.kv_heads) * u64::from(Self::BLOCK) * u64::from(Self::CHANNELS) / 2
    }

    /// Floats of channel statistics of one sequence in one layer.
    pub fn stats_len(&self) -> u64 {
        u64::from(self.kv_heads) * u64::from(self.group + 2) * u64::from(self.head_dim)
    }

    /// Words that describe the index channels of one sequence in one layer.
    pub fn channels_len(&self) -> u64 {
        u64::from(self.kv_heads) * 3 * u64::from(Self::CHANNELS)
    }
}
