//! How blocks are stored in CPU memory: as the GPU has them, or in about half the bytes. `shaders/lib/stored_*` read the same.

use crate::{Error, Result, subject};
use half::f16;
use half::slice::HalfFloatSliceExt;
use serde::Serialize;
use std::fmt;
use std::str::FromStr;

/// The stored type of the KV cache in CPU memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum KvType {
    /// 16 bits a value, as on the GPU.
    #[default]
    #[serde(rename = "f16")]
    F16,
    /// 8 bits a value, and a scale in half precision for every 32 of them: 8.5 bits.
    #[serde(rename = "q8_0")]
    Q8_0,
}

impl FromStr for KvType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        [Self::F16, Self::Q8_0]
            .into_iter()
            .find(|kind| kind.to_string() == text)
            .ok_or_else(|| Error::argument(subject::KV_TYPE, text, "it must be f16 or q8_0"))
    }
}

impl fmt::Display for KvType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F16 => "f16",
            Self::Q8_0 => "q8_0",
        })
    }
}

/// Values that share a scale.
const GROUP: usize = 32;

/// How a head-block, the keys and then the values of one block and KV head, is stored. As Q8_0 it is the scales of its
/// groups, padded to a multiple of 16 bytes, and then all its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadFormat {
    /// The stored type of values.
    pub kv_type: KvType,
    values: usize,
    kv_heads: usize,
}

impl HeadFormat {
    /// That of head-blocks of `values` numbers, `kv_heads` of them a layer's block.
    pub fn new(kv_type: KvType, values: usize, kv_heads: usize) -> Self {
        Self { kv_type, values, kv_heads }
    }

    /// Values of a head-block.
    pub fn head_values(&self) -> usize {
        self.values
    }

    /// Bytes of a head-block.
    pub fn head_bytes(&self) -> u64 {
        let bytes = match self.kv_type {
            KvType::F16 => 2 * self.values,
            KvType::Q8_0 => self.scale_bytes() + self.values,
        };
        bytes as u64
    }

    /// Bytes of one layer of a block.
    pub fn block_bytes(&self) -> u64 {
        self.head_bytes() * self.kv_heads as u64
    }

    fn scale_bytes(&self) -> usize {
        (2 * self.values / GROUP).next_multiple_of(16)
    }

    /// Appends one layer of a block, of f16, as it is stored.
    pub fn store(&self, halves: &[u8], stored: &mut Vec<u8>) {
        if self.kv_type == KvType::F16 {
            return stored.extend_from_slice(halves);
        }
        for head in halves.chunks_exact(2 * self.values) {
            let scales = stored.len();
            stored.resize(scales + self.scale_bytes(), 0);
            let (groups, _) = head.as_chunks();
            for (i, group) in groups.iter().enumerate() {
                let (scale, bytes) = quantise(group);
                stored[scales + 2 * i..][..2].copy_from_slice(&scale.to_le_bytes());
                stored.extend_from_slice(&bytes);
            }
        }
    }

    /// The numbers that [`HeadFormat::store`] stored, as f16 again. The twin of `place_blocks` and `unpack_blocks`.
    pub fn load(&self, stored: &[u8], halves: &mut [u8]) {
        if self.kv_type == KvType::F16 {
            return halves.copy_from_slice(stored);
        }
        let heads = stored.chunks_exact(self.head_bytes() as usize);
        for (stored, halves) in heads.zip(halves.chunks_exact_mut(2 * self.values)) {
            let (scales, bytes) = stored.split_at(self.scale_bytes());
            let (groups, _) = bytes.as_chunks::<GROUP>();
            let scales = scales.as_chunks().0.iter().map(|scale| f16::from_le_bytes(*scale));
            let halves = halves.as_chunks_mut::<2>().0.chunks_exact_mut(GROUP);
            for ((scale, group), halves) in scales.zip(groups).zip(halves) {
                let scale = scale.to_f32();
                let values = group.map(|byte| value(scale, byte.cast_signed()));
                let mut group = [f16::ZERO; GROUP];
                group.convert_from_f32_slice(&values);
                halves.iter_mut().zip(group).for_each(|(to, half)| *to = half.to_le_bytes());
            }
        }
    }
}

// As the cache clamps what it is given: 127 times the scale of the largest f16 is a little more than that.
fn value(scale: f32, byte: i8) -> f32 {
    let largest = f16::MAX.to_f32_const();
    (scale * f32::from(byte)).clamp(-largest, largest)
}

// The least scale by which 127 is at least this magnitude, once it is f16 again. It is within an ulp of largest / 127; and
// what was quantised before has the same scale and bytes again, for its largest is what its scale makes of 127.
fn scale_of(largest: f32) -> f16 {
    let reaches =
        |bits| f16::from_f32(value(f16::from_bits(bits).to_f32(), 127)).to_f32() >= largest;
    let near = f16::from_f32(largest / 127.0).to_bits();
    let mut bits = near.saturating_sub(1);
    while !reaches(bits) {
        bits += 1;
    }
    f16::from_bits(bits)
}

// The scale and the bytes of a group of f16. One with a value that is not finite has no scale: all of it is NaN.
fn quantise(halves: &[u8; 2 * GROUP]) -> (f16, [u8; GROUP]) {
    let (pairs, _) = halves.as_chunks::<2>();
    let (mut group, mut values) = ([f16::ZERO; GROUP], [0.0; GROUP]);
    for (half, bytes) in group.iter_mut().zip(pairs) {
        *half = f16::from_le_bytes(*bytes);
    }
    // Magnitudes compare as integers, which puts infinities and NaN above all else.
    let largest = group.iter().fold(0, |most: i16, v| most.max((v.to_bits() & 0x7fff) as i16));
    let largest = f16::from_bits(largest.cast_unsigned());
    if !largest.is_finite() {
        return (f16::NAN, [0; GROUP]);
    }
    let scale = scale_of(largest.to_f32());
    group.convert_to_f32_slice(&mut values);
    // Floats from 2^23 to 2^24 are whole numbers: a sum there is rounded to the nearest, and its last byte is that number's.
    // Without a scale 0 times infinity is NaN, whose last byte is 0.
    const WHOLE: f32 = 12_582_912.0;
    let per_scale = 1.0 / scale.to_f32();
    let bytes = values.map(|v| (v * per_scale + WHOLE).to_bits() as u8);
    (scale, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_pcg::Pcg64;
    use rand_pcg::rand_core::Rng;

    fn bytes(values: &[f16]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    fn there_and_back(format: &HeadFormat, values: &[f16]) -> (Vec<u8>, Vec<f16>) {
        let mut stored = Vec::new();
        format.store(&bytes(values), &mut stored);
        let mut back = vec![0xee; 2 * values.len()];
        format.load(&stored, &mut back);
        let back = back.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b)).collect();
        (stored, back)
    }

    // |x - q s| <= s / 2, for the largest too: it is at most half an ulp of f16, 2^-11 of 127 s or 0.062 s, above 127 s. The
    // quotient is rounded twice to f32, which is 2^-16 s at most; and what is read is rounded to f16.
    fn check_group(group: &[f16], back: &[f16]) {
        let largest = group.iter().fold(0f32, |most, v| most.max(v.to_f32().abs()));
        // The scale is within an ulp of this, which is 2^-10 of it or the least subnormal.
        let scale = largest / 127.0 * (1.0 + 2f32.powi(-10)) + 2f32.powi(-24);
        for (x, y) in group.iter().zip(back) {
            let (x, y) = (x.to_f32(), y.to_f32());
            let most = scale * (0.5 + 2f32.powi(-16)) + y.abs() * 2f32.powi(-11);
            assert!((x - y).abs() <= most, "{y} of {x}, largest {largest}");
            assert!(y == 0.0 || x.is_sign_negative() == y.is_sign_negative(), "{y} of {x}");
        }
    }

    #[test]
    fn values_come_back_within_half_a_step() {
        let mut random = Pcg64::new(7, 1);
        for (kv_heads, head_dim, block) in [(1, 32, 16), (3, 80, 16), (2, 96, 32), (1, 64, 64)] {
            let of_head = 2 * head_dim * block;
            let format = HeadFormat::new(KvType::Q8_0, of_head, kv_heads);
            assert_eq!(format.head_bytes() % 16, 0);
            let values = (of_head * kv_heads) as u64;
            assert_eq!(format.block_bytes(), values + values / 16);
            // Each group of another size, down to where f16 is subnormal and ends.
            let made: Vec<f16> = (0..values)
                .map(|i| {
                    let share = (random.next_u64() >> 40) as f32 / (1 << 23) as f32 - 1.0;
                    f16::from_f32(share * 2f32.powi(15 - (i / 32 % 42) as i32))
                })
                .collect();
            let (stored, back) = there_and_back(&format, &made);
            assert_eq!(stored.len() as u64, format.block_bytes());
            made.chunks(32).zip(back.chunks(32)).for_each(|(made, back)| check_group(made, back));
            // Where scales are normal, what was quantised once stays as it is.
            let (_, twice) = there_and_back(&format, &back);
            for (i, (once, twice)) in back.chunks(32).zip(twice.chunks(32)).enumerate() {
                let largest = once.iter().fold(0f32, |most, v| most.max(v.to_f32().abs()));
                assert!(largest < 0.008 || once == twice, "group {i}: {once:?}, then {twice:?}");
            }
        }
    }

    #[test]
    fn every_largest_value_has_a_scale_that_stays() {
        for bits in 0..=f16::MAX.to_bits() {
            let largest = f16::from_bits(bits).to_f32();
            let scale = scale_of(largest);
            let reached = f16::from_f32(value(scale.to_f32(), 127)).to_f32();
            assert!(reached >= largest, "{largest}");
            assert_eq!(scale_of(reached), scale, "{largest}");
            let ulp = (scale.to_bits().abs_diff(f16::from_f32(largest / 127.0).to_bits())) <= 1;
            assert!(ulp, "{largest}: {scale}");
        }
    }

    #[test]
    fn zeros_the_largest_and_what_is_not_finite() {
        let format = HeadFormat::new(KvType::Q8_0, 2 * 32 * 16, 1);
        let mut values = vec![f16::ZERO; 1024];
        values[32..64].fill(f16::MAX);
        values[70] = f16::MIN;
        values[100] = f16::NAN;
        values[130] = f16::INFINITY;
        values[160] = f16::NEG_INFINITY;
        values[161] = f16::ONE;
        values[200] = f16::from_bits(1);
        let (_, back) = there_and_back(&format, &values);
        assert_eq!(back[..96], values[..96]);
        assert!(back[96..192].iter().all(|v| v.is_nan()), "groups without a scale");
        assert_eq!(back[192..], values[192..]);
    }

    #[test]
    fn f16_stays_as_it_is() {
        let format = HeadFormat::new(KvType::F16, 2 * 32 * 16, 2);
        let values: Vec<f16> = (0..2048).map(|i| f16::from_bits(i * 31)).collect();
        let (stored, _) = there_and_back(&format, &values);
        assert_eq!(stored, bytes(&values));
        assert_eq!(format.block_bytes(), 4096);
    }

    #[test]
    fn types_have_names() {
        for kind in [KvType::F16, KvType::Q8_0] {
            assert_eq!(kind.to_string().parse::<KvType>().unwrap(), kind);
        }
        let message = "q4_0".parse::<KvType>().unwrap_err().to_string();
        assert!(message.contains("is q4_0, but it must be f16 or q8_0"), "{message}");
    }
}
