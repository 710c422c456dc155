//! The repacking of a file's rows into the formats that kernels read.

use super::TensorType;
use super::blocks::{self, Quants, SuperBlock, half};
use crate::{Error, Result};
use half::f16;

/// Rows in a GPU format.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// The plane of weights.
    pub weights: Vec<u32>,
    /// The plane of scales; empty for formats without.
    pub scales: Vec<u32>,
    // Whether the upper half of the last word of `scales` waits for the next unit's scale.
    has_half: bool,
}

impl Packed {
    /// Whether there are so many bytes of weights, and what follows begins with a word of its own in both planes, so that these rows can
    /// be taken away.
    pub fn is_full(&self, bytes: usize) -> bool {
        self.weights.len() * 4 >= bytes && !self.has_half
    }

    /// Takes the rows away.
    pub fn clear(&mut self) {
        self.weights.clear();
        self.scales.clear();
        self.has_half = false;
    }

    fn push_half(&mut self, scale: f16) {
        let bits = u32::from(scale.to_bits());
        match self.scales.last_mut() {
            Some(last) if self.has_half => *last |= bits << 16,
            _ => self.scales.push(bits),
        }
        self.has_half = !self.has_half;
    }
}

/// Appends one row of a file's tensor to `packed`, zero-padded to whole units.
///
/// # Errors
/// [`Error::Model`] for a type that is not supported, and for a scale that its GPU format cannot hold.
pub fn pack_row(kind: TensorType, row: &[u8], packed: &mut Packed) -> Result<()> {
    match kind {
        TensorType::Q4_0 => {
            for [d0, d1, q @ ..] in row.as_chunks::<18>().0 {
                let d = half(*d0, *d1);
                minimum(kind, d, 8.0)?;
                packed.push_half(d);
                packed.weights.extend(nibble_words(&blocks::nibbles(q)));
            }
        }
        TensorType::Q4_1 => {
            for [d0, d1, m0, m1, q @ ..] in row.as_chunks::<20>().0 {
                packed.scales.push(u32::from_le_bytes([*d0, *d1, *m0, *m1]));
                packed.weights.extend(nibble_words(&blocks::nibbles(q)));
            }
        }
        TensorType::Q5_0 => {
            for [d0, d1, h0, h1, h2, h3, q @ ..] in row.as_chunks::<22>().0 {
                let q = blocks::fives([*h0, *h1, *h2, *h3], q);
                let d = half(*d0, *d1);
                packed.scales.extend([pair(d, minimum(kind, d, 16.0)?), fifths_word(&q)]);
                packed.weights.extend(nibble_words(&q));
            }
        }
        TensorType::Q5_1 => {
            for [d0, d1, m0, m1, h0, h1, h2, h3, q @ ..] in row.as_chunks::<24>().0 {
                let q = blocks::fives([*h0, *h1, *h2, *h3], q);
                packed.scales.extend([u32::from_le_bytes([*d0, *d1, *m0, *m1]), fifths_word(&q)]);
                packed.weights.extend(nibble_words(&q));
            }
        }
        TensorType::Q8_0 => {
            for [d0, d1, q @ ..] in row.as_chunks::<34>().0 {
                packed.push_half(half(*d0, *d1));
                packed.weights.extend(words(q));
            }
        }
        TensorType::Q4K => {
            for block in row.as_chunks().0 {
                let block = blocks::q4_k(block);
                packed.scales.extend(scale_words(&block));
                packed.weights.extend(block.quants.iter().flat_map(nibble_words));
            }
        }
        TensorType::Q5K => {
            for block in row.as_chunks().0 {
                let block = blocks::q5_k(block);
                packed.scales.extend(scale_words(&block));
                packed.scales.extend(block.quants.iter().map(fifths_word));
                packed.weights.extend(block.quants.iter().flat_map(nibble_words));
            }
        }
        TensorType::Q6K => {
            for block in row.as_chunks().0 {
                let block = blocks::q6_k(block);
                packed.scales.push(u32::from(block.d.to_bits()));
                packed.scales.extend(words(&block.scales.map(i8::cast_unsigned)));
                for q in &block.quants {
                    packed.weights.extend(nibble_words(q));
                    packed.weights.extend(sixths_words(q));
                }
            }
        }
        TensorType::F16 | TensorType::BF16 => numbers(row, 64, &mut packed.weights),
        TensorType::F32 => numbers(row, 128, &mut packed.weights),
        TensorType::Other(_) => return Err(kind.unsupported()),
    }
    Ok(())
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u32> + use<'_> {
    bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word))
}

// Plain numbers, filled up with zeros to whole units.
fn numbers(row: &[u8], unit_bytes: usize, weights: &mut Vec<u32>) {
    let (whole, rest) = row.split_at(row.len() / unit_bytes * unit_bytes);
    weights.extend(words(whole));
    if !rest.is_empty() {
        let mut unit = vec![0; unit_bytes];
        unit[..rest.len()].copy_from_slice(rest);
        weights.extend(words(&unit));
    }
}

// m of d * (q - centre) as d * q + m: it is exact, unless it overflows, which no trained scale does. Kernels that multiply in
// half precision make m themselves, so it must not overflow where it is not stored either.
fn minimum(kind: TensorType, d: f16, centre: f32) -> Result<f16> {
    let m = f16::from_f32(-centre * d.to_f32());
    if d.is_finite() && !m.is_finite() {
        let most = f16::MAX.to_f32() / centre;
        return Err(Error::Model(format!(
            "a {kind} scale is {d}, but at most {most} is supported"
        )));
    }
    Ok(m)
}

fn pair(low: f16, high: f16) -> u32 {
    u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16
}

// Word w holds integers 8w .. 8w+3 in the low nibbles of its bytes and 8w+4 .. 8w+7 in the high ones, so that a mask makes
// four bytes in order.
fn nibble_words(q: &Quants) -> [u32; 4] {
    std::array::from_fn(|w| four(q, 2 * w) & 0x0f0f_0f0f | (four(q, 2 * w + 1) & 0x0f0f_0f0f) << 4)
}

// Bit k of byte i is the fifth of integer 4k + i.
fn fifths_word(q: &Quants) -> u32 {
    (0..8).fold(0, |word, k| word | (four(q, k) >> 4 & 0x0101_0101) << k)
}

// The upper two bits of q - 32 in two's complement, which are those of q with the sixth flipped: bits 2k and 2k + 1 of byte
// i are those of integer 4k + i, in the second word of 4k + i + 16.
fn sixths_words(q: &Quants) -> [u32; 2] {
    std::array::from_fn(|word| {
        (0..4).fold(0, |bits, k| {
            bits | ((four(q, 4 * word + k) >> 4 & 0x0303_0303) ^ 0x0202_0202) << (2 * k)
        })
    })
}

fn four(q: &Quants, quad: usize) -> u32 {
    u32::from_le_bytes([q[4 * quad], q[4 * quad + 1], q[4 * quad + 2], q[4 * quad + 3]])
}

// The words that shaders/lib/scales_k.wgsl reads: d and -dmin; then of unit u the low four bits of its scale, and of its
// min, from bit 4u of a word each; then the upper two of its scale from bit 2u, of its min from bit 16 + 2u.
fn scale_words(block: &SuperBlock) -> [u32; 4] {
    let gather = |numbers: &[u8; 8], shift: u32, bits: usize| {
        numbers.iter().enumerate().fold(0, |word, (unit, &number)| {
            word | (u32::from(number) >> shift & ((1 << bits) - 1)) << (bits * unit)
        })
    };
    [
        pair(block.d, -block.dmin),
        gather(&block.scales, 0, 4),
        gather(&block.mins, 0, 4),
        gather(&block.scales, 4, 2) | gather(&block.mins, 4, 2) << 16,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::WeightFormat;

    #[test]
    fn rows_take_the_bytes_that_their_format_says() {
        let mut formats = Vec::new();
        for kind in TensorType::SUPPORTED {
            let format = WeightFormat::of(kind).unwrap();
            let block = kind.block().unwrap();
            let mut packed = Packed::default();
            let row = vec![0; (768 / block.weights * block.bytes) as usize];
            pack_row(kind, &row, &mut packed).unwrap();
            assert_eq!(packed.weights.len() as u64 * 4, 24 * format.unit_bytes(), "{kind}");
            assert_eq!(packed.scales.len() as u64 * 4, format.scale_bytes(24), "{kind}");
            formats.push(format);
        }
        assert!(WeightFormat::ALL.iter().all(|format| formats.contains(format)));
    }

    #[test]
    fn rows_of_an_odd_number_of_units_share_words_of_scales() {
        for kind in [TensorType::Q4_0, TensorType::Q8_0] {
            let bytes = kind.block().unwrap().bytes as usize;
            let mut row = vec![0; 3 * bytes];
            let mut packed = Packed::default();
            for first in [1.0, 4.0, 7.0] {
                for (block, unit) in row.chunks_mut(bytes).zip(0u8..) {
                    let scale = f16::from_f32(first + f32::from(unit));
                    block[..2].copy_from_slice(&scale.to_le_bytes());
                }
                pack_row(kind, &row, &mut packed).unwrap();
                // However few bytes are asked for: a row ends within a word.
                assert_eq!(packed.is_full(1), first == 4.0, "{kind}");
                assert!(!packed.is_full(packed.weights.len() * 4 + 1), "{kind}");
            }
            let halves: Vec<f16> = bytemuck::cast_slice::<_, u16>(&packed.scales)
                .iter()
                .map(|bits| f16::from_bits(*bits))
                .collect();
            let all: Vec<f16> = (1u8..10).map(|i| f16::from_f32(f32::from(i))).collect();
            assert_eq!(halves[..9], all, "{kind}");
            assert_eq!(halves[9..], [f16::ZERO], "{kind}");
            let format = WeightFormat::of(kind).unwrap();
            assert_eq!(packed.scales.len() as u64 * 4, format.scale_bytes(9), "{kind}");
            // What comes after rows that were taken away begins anew.
            packed.clear();
            pack_row(kind, &row, &mut packed).unwrap();
            let mut anew = Packed::default();
            pack_row(kind, &row, &mut anew).unwrap();
            assert_eq!(packed, anew, "{kind}");
        }
    }

    #[test]
    fn a_scale_whose_minimum_overflows_is_refused() {
        for (kind, bytes, most) in [(TensorType::Q4_0, 18, 8188.0), (TensorType::Q5_0, 22, 4094.0)]
        {
            let mut row = vec![0; bytes];
            let mut pack = |scale: f16| {
                row[..2].copy_from_slice(&scale.to_le_bytes());
                pack_row(kind, &row, &mut Packed::default())
            };
            pack(f16::from_f32(most)).unwrap();
            let error = pack(f16::from_f32(most + 10.0)).unwrap_err().to_string();
            assert!(error.contains(&format!("a {kind} scale is")), "{error}");
            assert!(error.ends_with(&format!("but at most {most} is supported")), "{error}");
        }
    }
}
