//! The format of the index.

use crate::{Error, Result};

/// What the index keeps of each key: its values on some channels, as codes of a few bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexFormat {
    /// Channels of a KV head: 8, 16, 32, 64 or 128, at most its dimensions. They come in rotary pairs.
    pub channels: u32,
    /// Bits of a code: 2, 4 or 8. A token's codes fill whole words of 32 bits.
    pub bits: u32,
}

impl Default for IndexFormat {
    /// 16 bytes a token.
    fn default() -> Self {
        Self { channels: 32, bits: 4 }
    }
}

impl IndexFormat {
    /// Words of one token's codes.
    pub fn words(&self) -> u32 {
        self.channels * self.bits / 32
    }

    /// Words that are read at a time: 1, 2 or 4.
    pub fn chunk(&self) -> u32 {
        self.words().min(4)
    }

    /// The largest code.
    pub fn largest(&self) -> u32 {
        (1 << self.bits) - 1
    }

    /// Checks that kernels exist for this format.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the option, its value and the limit.
    pub fn validate(&self, head_dim: u32) -> Result<()> {
        let Self { channels, bits } = *self;
        if ![8, 16, 32, 64, 128].contains(&channels) || channels > head_dim {
            let limit = format!(
                "it must be 8, 16, 32, 64 or 128, and at most the head dimension, which is {head_dim}"
            );
            return Err(Error::argument("--index-channels", channels, limit));
        }
        if ![2, 4, 8].contains(&bits) {
            return Err(Error::argument("--index-bits", bits, "it must be 2, 4 or 8"));
        }
        if channels * bits < 32 {
            let limit = format!("with {channels} channels at least 4 bits are needed");
            return Err(Error::argument("--index-bits", bits, limit));
        }
        Ok(())
    }
}
