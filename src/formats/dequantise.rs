//! Stored weights as 32-bit floats, in the plainest way: what the kernels that read them are compared with.

use half::{bf16, f16};

use super::TensorType;
use super::blocks::{self, SuperBlock, half};
use crate::{Error, Result};

/// All weights stored in `bytes`, which holds whole blocks of the type `kind`.
///
/// The arithmetic is that of the format's reference implementation, bit for bit: products and sums rounded to 32 bits
/// one after the other.
pub fn dequantise(kind: TensorType, bytes: &[u8]) -> Result<Vec<f32>> {
    match kind {
        TensorType::F32 => decode(kind, bytes, |bytes| [f32::from_le_bytes(*bytes)]),
        TensorType::F16 => decode(kind, bytes, |bytes| [f16::from_le_bytes(*bytes).to_f32()]),
        TensorType::BF16 => decode(kind, bytes, |bytes| [bf16::from_le_bytes(*bytes).to_f32()]),
        TensorType::Q8_0 => decode(kind, bytes, q8_0),
        TensorType::Q4_0 => decode(kind, bytes, q4_0),
        TensorType::Q4_1 => decode(kind, bytes, q4_1),
        TensorType::Q5_0 => decode(kind, bytes, q5_0),
        TensorType::Q5_1 => decode(kind, bytes, q5_1),
        TensorType::Q4K => decode(kind, bytes, |block| super_block(&blocks::q4_k(block))),
        TensorType::Q5K => decode(kind, bytes, |block| super_block(&blocks::q5_k(block))),
        TensorType::Q6K => decode(kind, bytes, q6_k),
        TensorType::Other(_) => Err(kind.unsupported()),
    }
}

fn decode<const N: usize, const WEIGHTS: usize>(
    kind: TensorType,
    bytes: &[u8],
    decode: impl Fn(&[u8; N]) -> [f32; WEIGHTS],
) -> Result<Vec<f32>> {
    match bytes.as_chunks() {
        (blocks, []) => Ok(blocks.iter().flat_map(decode).collect()),
        _ => Err(Error::Model(format!(
            "{} bytes of type {kind} were given, but it is stored in blocks of {N} bytes",
            bytes.len()
        ))),
    }
}

/// A half-precision scale, then 32 signed bytes.
fn q8_0(block: &[u8; 34]) -> [f32; 32] {
    let [d0, d1, q @ ..] = block;
    let d = half(*d0, *d1).to_f32();
    q.map(|q| d * f32::from(q.cast_signed()))
}

/// A half-precision scale, then 32 numbers of 4 bits that stand for -8 to 7.
fn q4_0(block: &[u8; 18]) -> [f32; 32] {
    let [d0, d1, q @ ..] = block;
    let d = half(*d0, *d1).to_f32();
    blocks::nibbles(q).map(|q| d * (f32::from(q) - 8.0))
}

/// A scale and a minimum in half precision, then 32 numbers of 4 bits.
fn q4_1(block: &[u8; 20]) -> [f32; 32] {
    let [d0, d1, m0, m1, q @ ..] = block;
    let (d, m) = (half(*d0, *d1).to_f32(), half(*m0, *m1).to_f32());
    blocks::nibbles(q).map(|q| d * f32::from(q) + m)
}

/// A half-precision scale, then 32 numbers of 5 bits that stand for -16 to 15.
fn q5_0(block: &[u8; 22]) -> [f32; 32] {
    let [d0, d1, h0, h1, h2, h3, q @ ..] = block;
    let d = half(*d0, *d1).to_f32();
    blocks::fives([*h0, *h1, *h2, *h3], q).map(|q| d * (f32::from(q) - 16.0))
}

/// A scale and a minimum in half precision, then 32 numbers of 5 bits.
fn q5_1(block: &[u8; 24]) -> [f32; 32] {
    let [d0, d1, m0, m1, h0, h1, h2, h3, q @ ..] = block;
    let (d, m) = (half(*d0, *d1).to_f32(), half(*m0, *m1).to_f32());
    blocks::fives([*h0, *h1, *h2, *h3], q).map(|q| d * f32::from(q) + m)
}

/// Every 32 numbers have a scale and a minimum in units of the block's own two.
fn super_block(block: &SuperBlock) -> [f32; 256] {
    let (d, dmin) = (block.d.to_f32(), block.dmin.to_f32());
    std::array::from_fn(|i| {
        let unit = i / 32;
        let (d, min) = (d * f32::from(block.scales[unit]), dmin * f32::from(block.mins[unit]));
        d * f32::from(block.quants[unit][i % 32]) - min
    })
}

/// Numbers of 6 bits that stand for -32 to 31; every 16 have a scale in units of the block's own.
fn q6_k(block: &[u8; 210]) -> [f32; 256] {
    let block = blocks::q6_k(block);
    let d = block.d.to_f32();
    std::array::from_fn(|i| {
        d * f32::from(block.scales[i / 16]) * (f32::from(block.quants[i / 32][i % 32]) - 32.0)
    })
}
