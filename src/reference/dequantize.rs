//! Stored weights as 32-bit floats, in the plainest way: what the kernels that read them are compared with.

use half::{bf16, f16};

use crate::model::gguf::TensorType;
use crate::{Error, Result};

/// How many weights share a scale.
const BLOCK: usize = 32;

/// All weights stored in `bytes`, which holds whole blocks of the type `kind`.
///
/// The arithmetic is that of the format's reference implementation, bit for bit: products and sums rounded to 32 bits
/// one after the other.
pub fn dequantize(kind: TensorType, bytes: &[u8]) -> Result<Vec<f32>> {
    match kind {
        TensorType::F32 => numbers(kind, bytes, f32::from_le_bytes),
        TensorType::F16 => numbers(kind, bytes, |bytes| f16::from_le_bytes(bytes).to_f32()),
        TensorType::BF16 => numbers(kind, bytes, |bytes| bf16::from_le_bytes(bytes).to_f32()),
        TensorType::Q8_0 => blocks(kind, bytes, q8_0),
        TensorType::Q4_0 => blocks(kind, bytes, q4_0),
        TensorType::Q4_1 => blocks(kind, bytes, q4_1),
        _ => Err(Error::Model(format!(
            "weights of type {kind} cannot be read, but those of F32, F16, BF16, Q8_0, Q4_0 and Q4_1 can"
        ))),
    }
}

fn numbers<const N: usize>(
    kind: TensorType,
    bytes: &[u8],
    decode: impl Fn([u8; N]) -> f32,
) -> Result<Vec<f32>> {
    let chunks = whole::<N>(kind, bytes)?;
    Ok(chunks.iter().map(|chunk| decode(*chunk)).collect())
}

fn blocks<const N: usize>(
    kind: TensorType,
    bytes: &[u8],
    decode: impl Fn(&[u8; N]) -> [f32; BLOCK],
) -> Result<Vec<f32>> {
    let chunks = whole::<N>(kind, bytes)?;
    Ok(chunks.iter().flat_map(decode).collect())
}

fn whole<const N: usize>(kind: TensorType, bytes: &[u8]) -> Result<&[[u8; N]]> {
    match bytes.as_chunks() {
        (chunks, []) => Ok(chunks),
        _ => Err(Error::Model(format!(
            "{} bytes of type {kind} were given, but it is stored in blocks of {N} bytes",
            bytes.len()
        ))),
    }
}

/// A half-precision scale, then 32 signed bytes.
fn q8_0(block: &[u8; 34]) -> [f32; BLOCK] {
    let [d0, d1, q @ ..] = block;
    let d = scale(*d0, *d1);
    q.map(|q| d * f32::from(q.cast_signed()))
}

/// A half-precision scale, then 32 numbers of 4 bits that stand for -8 to 7.
fn q4_0(block: &[u8; 18]) -> [f32; BLOCK] {
    let [d0, d1, q @ ..] = block;
    let d = scale(*d0, *d1);
    nibbles(q).map(|q| d * (f32::from(q) - 8.0))
}

/// A scale and a minimum in half precision, then 32 numbers of 4 bits.
fn q4_1(block: &[u8; 20]) -> [f32; BLOCK] {
    let [d0, d1, m0, m1, q @ ..] = block;
    let (d, m) = (scale(*d0, *d1), scale(*m0, *m1));
    nibbles(q).map(|q| d * f32::from(q) + m)
}

fn scale(low: u8, high: u8) -> f32 {
    f16::from_le_bytes([low, high]).to_f32()
}

/// The low halves of all bytes, then their high halves.
fn nibbles(packed: &[u8; BLOCK / 2]) -> [u8; BLOCK] {
    std::array::from_fn(|index| match packed.get(index) {
        Some(byte) => byte & 15,
        None => packed[index - BLOCK / 2] >> 4,
    })
}
