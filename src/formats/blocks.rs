//! The blocks of a file's quantised weights, as integers in the order of the weights: one place that knows how they
//! are packed, for all that computes with them. Layouts: `ggml-common.h` and `ggml-quants.c` of ggml.

use super::TensorType;
use half::f16;

/// 32 integers that stand for weights.
pub(crate) type Quants = [u8; 32];

/// 256 weights with two levels of scales: weight i of 32 is d * scale * q\[i\] - dmin * min, for the scale and min of its 32.
pub(crate) struct SuperBlock {
    pub(crate) d: f16,
    pub(crate) dmin: f16,
    /// Of 6 bits.
    pub(crate) scales: [u8; 8],
    /// Of 6 bits.
    pub(crate) mins: [u8; 8],
    pub(crate) quants: [Quants; 8],
}

/// 256 weights with a signed scale for each 16: weight i is d * scale * (q\[i\] - 32).
pub(crate) struct SignedSuperBlock {
    pub(crate) d: f16,
    pub(crate) scales: [i8; 16],
    pub(crate) quants: [Quants; 8],
}

/// Where a block has numbers in half precision: the scales of all its weights.
pub(crate) fn scales_at(kind: TensorType) -> &'static [usize] {
    match kind {
        TensorType::Q8_0 | TensorType::Q4_0 | TensorType::Q5_0 => &[0],
        TensorType::Q4_1 | TensorType::Q5_1 | TensorType::Q4K | TensorType::Q5K => &[0, 2],
        TensorType::Q6K => &[208],
        _ => &[],
    }
}

/// A number in half precision.
pub(crate) fn half(low: u8, high: u8) -> f16 {
    f16::from_le_bytes([low, high])
}

/// 32 integers of 4 bits (Q4_0, Q4_1): the low halves of all bytes, then their high halves.
pub(crate) fn nibbles(packed: &[u8; 16]) -> Quants {
    std::array::from_fn(|i| if i < 16 { packed[i] & 15 } else { packed[i - 16] >> 4 })
}

/// 32 integers of 5 bits (Q5_0, Q5_1): bit i of `fifths` is the highest of integer i, the others are [`nibbles`].
pub(crate) fn fives(fifths: [u8; 4], packed: &[u8; 16]) -> Quants {
    let low = nibbles(packed);
    std::array::from_fn(|i| low[i] | (fifths[i / 8] >> (i % 8) & 1) << 4)
}

/// Q4_K.
pub(crate) fn q4_k(block: &[u8; 144]) -> SuperBlock {
    let [d0, d1, m0, m1, rest @ ..] = block;
    let (scales, low) = rest.split_first_chunk().expect("12 + 128 bytes");
    let (scales, mins) = six_bits(scales);
    let quants = std::array::from_fn(|unit| k_nibbles(low, unit));
    SuperBlock { d: half(*d0, *d1), dmin: half(*m0, *m1), scales, mins, quants }
}

/// Q5_K: the highest bits of unit u are the bits u of 32 bytes.
pub(crate) fn q5_k(block: &[u8; 176]) -> SuperBlock {
    let [d0, d1, m0, m1, rest @ ..] = block;
    let (scales, rest) = rest.split_first_chunk().expect("12 + 160 bytes");
    let (high, low) = rest.split_first_chunk::<32>().expect("32 + 128 bytes");
    let (scales, mins) = six_bits(scales);
    let quants = std::array::from_fn(|unit| {
        let low = k_nibbles(low, unit);
        std::array::from_fn(|i| low[i] | (high[i] >> unit & 1) << 4)
    });
    SuperBlock { d: half(*d0, *d1), dmin: half(*m0, *m1), scales, mins, quants }
}

/// Q6_K: two halves of four units. Units 0 and 1 of a half are the low nibbles of its 64 bytes, units 2 and 3 the high
/// ones; the upper bits of unit u are the pair of bits u of its 32 bytes.
pub(crate) fn q6_k(block: &[u8; 210]) -> SignedSuperBlock {
    let (low, rest) = block.split_first_chunk::<128>().expect("128 + 82 bytes");
    let (high, rest) = rest.split_first_chunk::<64>().expect("64 + 18 bytes");
    let (scales, d) = rest.split_first_chunk::<16>().expect("16 + 2 bytes");
    let quants = std::array::from_fn(|unit| {
        let (half, unit) = (unit / 4, unit % 4);
        let low = &low[64 * half + 32 * (unit % 2)..][..32];
        let high = &high[32 * half..][..32];
        std::array::from_fn(|i| low[i] >> (4 * (unit / 2)) & 15 | (high[i] >> (2 * unit) & 3) << 4)
    });
    SignedSuperBlock { d: half(d[0], d[1]), scales: scales.map(u8::cast_signed), quants }
}

// Units 2g and 2g + 1 are the low and the high nibbles of 32 bytes.
fn k_nibbles(low: &[u8], unit: usize) -> Quants {
    let bytes = &low[unit / 2 * 32..][..32];
    std::array::from_fn(|i| bytes[i] >> (4 * (unit % 2)) & 15)
}

// Scales and mins of 6 bits. The first four of each lie in the low bits of bytes 0 .. 3 and 4 .. 7; the last four have
// their low nibbles in bytes 8 .. 11 and their upper two bits above the first four.
fn six_bits(packed: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let last = |first: u8, low: u8| low & 15 | first >> 6 << 4;
    (
        std::array::from_fn(|i| match i {
            0..4 => packed[i] & 63,
            _ => last(packed[i - 4], packed[i + 4]),
        }),
        std::array::from_fn(|i| match i {
            0..4 => packed[i + 4] & 63,
            _ => last(packed[i], packed[i + 4] >> 4),
        }),
    )
}
