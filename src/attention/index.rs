//! The format of the index.

use crate::{Error, Result, subject};

/// The index's record of each key: its values on some channels, as codes of a few bits. Each block has a header: a minimum
/// and a scale a channel, as f16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexFormat {
    /// Channels of a KV head: a multiple of 8 from 8 to 128, at most its dimensions. They come in rotary pairs.
    pub channels: u32,
    /// Bits of a code: 2, 4 or 8. A token's codes fill whole words of 32 bits.
    pub bits: u32,
}

impl IndexFormat {
    /// The default of a head dimension, by which a token takes at most 15 bytes (`docs/selection.md`): a quarter of the dimensions
    /// and 4 bits, which kept what dense attention attends where an eighth lost it; from 128 dimensions on 48 of them and 2 bits,
    /// which found what 24 and 4 bits lost.
    pub(crate) fn for_head_dim(head_dim: u32) -> Self {
        match head_dim {
            128.. => Self { channels: 48, bits: 2 },
            _ => Self { channels: (head_dim / 4 / 8 * 8).clamp(8, 24), bits: 4 },
        }
    }

    /// The default of latent attention, whose channels serve all heads: 64 of 4 bits, since latents are loaded on axes of which the
    /// first say most (`docs/selection.md`).
    pub(crate) fn for_latent(head_dim: u32) -> Self {
        Self { channels: (head_dim / 4 / 8 * 8).clamp(8, 64), bits: 4 }
    }

    /// Words of one token's codes.
    pub(crate) fn words(&self) -> u32 {
        self.channels * self.bits / 32
    }

    /// Words that are read at a time: 1, 2 or 4.
    pub(crate) fn chunk(&self) -> u32 {
        1 << self.words().trailing_zeros().min(2)
    }

    /// Words of a block of `block` tokens for one KV head: the header and the codes.
    pub(crate) fn block_words(&self, block: u32) -> u32 {
        self.channels + block * self.words()
    }

    /// The largest code.
    #[cfg_attr(feature = "conformance", visibility::make(pub))]
    pub(crate) fn largest(&self) -> u32 {
        (1 << self.bits) - 1
    }

    /// The code of zero: eight-bit codes are signed bytes.
    pub(crate) fn zero(&self) -> u32 {
        if self.bits == 8 { 128 } else { 0 }
    }

    /// Checks that kernels exist for this format.
    ///
    /// # Errors
    /// [`Error::Argument`] naming what it is, its value and the limit.
    pub fn validate(&self, head_dim: u32) -> Result<()> {
        let Self { channels, bits } = *self;
        if !(8..=128).contains(&channels) || !channels.is_multiple_of(8) || channels > head_dim {
            let limit = format!(
                "it must be a multiple of 8 from 8 to 128, and at most the head dimension, which is {head_dim}"
            );
            return Err(Error::argument(subject::INDEX_CHANNELS, channels, limit));
        }
        if ![2, 4, 8].contains(&bits) {
            return Err(Error::argument(subject::INDEX_BITS, bits, "it must be 2, 4 or 8"));
        }
        if !(channels * bits).is_multiple_of(32) {
            let limit = format!("{channels} channels need at least 4");
            return Err(Error::argument(subject::INDEX_BITS, bits, limit));
        }
        Ok(())
    }
}
