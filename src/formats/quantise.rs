//! Quantising weights while a model is loaded: floats to the blocks that a file would hold, as PyPI `gguf` makes them, bit
//! for bit.

use std::fmt;
use std::str::FromStr;

use half::f16;

use super::TensorType;
use crate::{Error, Result, subject};

/// A type to quantise to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Quantise {
    /// 8 bits and a scale for 32 weights: 8.5 bits a weight.
    Q8_0,
    /// 4 bits around zero and a scale for 32 weights: 4.5 bits a weight.
    Q4_0,
}

const BLOCK: usize = 32;

impl Quantise {
    /// Every type that weights can be quantised to.
    pub const ALL: [Self; 2] = [Self::Q8_0, Self::Q4_0];

    /// The type of the blocks.
    #[cfg_attr(feature = "measure", visibility::make(pub))]
    pub(crate) fn kind(self) -> TensorType {
        match self {
            Self::Q8_0 => TensorType::Q8_0,
            Self::Q4_0 => TensorType::Q4_0,
        }
    }

    /// Appends the blocks of one row of weights to `blocks`, zero-padded to whole blocks of 32.
    ///
    /// Weights so small that a block's scale has no finite reciprocal (below 1e-36) become zeros.
    ///
    /// # Errors
    /// [`Error::Model`] naming the first weight that is infinite or not a number, or too large for a scale in half
    /// precision; `blocks` then ends within the row.
    #[cfg_attr(feature = "measure", visibility::make(pub))]
    pub(crate) fn row(self, row: &[f32], blocks: &mut Vec<u8>) -> Result<()> {
        match self {
            Self::Q8_0 => self.blocks(row, blocks, q8_0),
            Self::Q4_0 => self.blocks(row, blocks, q4_0),
        }
    }

    fn blocks<const N: usize>(
        self,
        row: &[f32],
        blocks: &mut Vec<u8>,
        quantise: impl Fn(&[f32; BLOCK]) -> Option<[u8; N]>,
    ) -> Result<()> {
        let (whole, rest) = row.as_chunks();
        blocks.reserve(row.len().div_ceil(BLOCK) * N);
        for (i, weights) in whole.iter().enumerate() {
            let block = quantise(weights).ok_or_else(|| self.refused(weights, i))?;
            blocks.extend_from_slice(&block);
        }
        if !rest.is_empty() {
            let mut weights = [0.0; BLOCK];
            weights[..rest.len()].copy_from_slice(rest);
            let block = quantise(&weights).ok_or_else(|| self.refused(&weights, whole.len()))?;
            blocks.extend_from_slice(&block);
        }
        Ok(())
    }

    fn refused(self, weights: &[f32; BLOCK], block: usize) -> Error {
        let most = f16::MAX.to_f32() * if self == Self::Q8_0 { 127.0 } else { 8.0 };
        let at = weights
            .iter()
            .position(|w| !w.is_finite())
            .or_else(|| first_of_size(weights, largest(weights)))
            .unwrap_or_default();
        Error::Model(format!(
            "weight {} of a row is {}, but only finite weights up to {most} can be quantised to {self}",
            block * BLOCK + at,
            weights[at]
        ))
    }
}

impl FromStr for Quantise {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|to| to.to_string() == text)
            .ok_or_else(|| Error::argument(subject::QUANTISE, text, "it must be q8_0 or q4_0"))
    }
}

impl fmt::Display for Quantise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
        })
    }
}

// The size of the largest weight. Sizes compare as integers, which puts infinities and NaN above all else.
fn largest(weights: &[f32; BLOCK]) -> f32 {
    let bits = weights.iter().fold(0, |most, w| most.max(w.abs().to_bits().cast_signed()));
    f32::from_bits(bits.cast_unsigned())
}

fn first_of_size(weights: &[f32; BLOCK], size: f32) -> Option<usize> {
    weights.iter().position(|w| w.abs() == size)
}

// d in half precision and its reciprocal, from d itself; `None` if half precision cannot hold d.
fn scale(d: f32) -> Option<(f16, f32)> {
    let half = f16::from_f32(d);
    let reciprocal = 1.0 / d;
    half.is_finite().then_some((half, if reciprocal.is_finite() { reciprocal } else { 0.0 }))
}

fn q8_0(weights: &[f32; BLOCK]) -> Option<[u8; 34]> {
    let (d, per_d) = scale(largest(weights) / 127.0)?;
    // Rounded half away from zero. Unlike f32::round this is a few vector instructions on every processor; the half is a
    // little less, so that what is just below halfway does not reach the next integer by rounding of the sum.
    let q = weights.map(|w| {
        let scaled = w * per_d;
        (scaled + 0.5f32.next_down().copysign(scaled)) as i8
    });
    let mut block = [0; 34];
    block[..2].copy_from_slice(&d.to_le_bytes());
    block[2..].copy_from_slice(&q.map(i8::cast_unsigned));
    Some(block)
}

fn q4_0(weights: &[f32; BLOCK]) -> Option<[u8; 18]> {
    // The first of the largest becomes -8 d, with its sign: of the 16 steps one more lies below zero than above it. There
    // is none if the largest is not a number.
    let first = first_of_size(weights, largest(weights))?;
    let (d, per_d) = scale(weights[first] / -8.0)?;
    let q = weights.map(|w| ((w * per_d + 8.5) as u8).min(15));
    let mut block = [0; 18];
    block[..2].copy_from_slice(&d.to_le_bytes());
    let (low, high) = q.split_at(16);
    for ((to, low), high) in block[2..].iter_mut().zip(low).zip(high) {
        *to = low | high << 4;
    }
    Some(block)
}
