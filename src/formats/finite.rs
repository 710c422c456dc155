//! Finds weights that are infinite or no numbers: one of them spoils all that a model says, and nothing later shows it.

use super::TensorType;
use super::blocks::{half, scales_at};
use crate::{Error, Result};
use half::{bf16, f16};

/// Whether all weights in `bytes`, whole blocks of the type `kind`, are finite numbers.
///
/// # Errors
/// [`Error::Model`] with the place of the first that is not.
pub(crate) fn check_finite(kind: TensorType, bytes: &[u8]) -> Result<()> {
    let number = |found: Option<(usize, f32)>| found.map(|(i, v)| (format!("weight {i}"), v));
    let found = match kind {
        TensorType::F32 => number(first_of(bytes, |b| f32::from_le_bytes(*b), |v| v.is_finite())),
        TensorType::F16 => number(first_of(bytes, |b| f16::from_le_bytes(*b), |v| v.is_finite())),
        TensorType::BF16 => number(first_of(bytes, |b| bf16::from_le_bytes(*b), |v| v.is_finite())),
        _ => scale(kind, bytes),
    };
    match found {
        None => Ok(()),
        Some((what, value)) => Err(Error::Model(format!(
            "{what} is {value}, but weights must be finite: the file is damaged, or what made it went wrong"
        ))),
    }
}

fn first_of<T: Copy + Into<f32>, const N: usize>(
    bytes: &[u8],
    number: impl Fn(&[u8; N]) -> T,
    is_finite: impl Fn(T) -> bool,
) -> Option<(usize, f32)> {
    let stored = bytes.as_chunks().0;
    // All without a branch, so that many are looked at in one instruction.
    if stored.iter().fold(true, |all, bytes| all & is_finite(number(bytes))) {
        return None;
    }
    let at = stored.iter().position(|bytes| !is_finite(number(bytes)))?;
    Some((at, number(&stored[at]).into()))
}

fn scale(kind: TensorType, bytes: &[u8]) -> Option<(String, f32)> {
    let block = kind.block()?;
    for (i, bytes) in bytes.chunks_exact(block.bytes as usize).enumerate() {
        for &at in scales_at(kind) {
            let scale = half(bytes[at], bytes[at + 1]);
            if !scale.is_finite() {
                let first = i as u64 * block.weights;
                let last = first + block.weights - 1;
                return Some((format!("a scale of weights {first} to {last}"), scale.to_f32()));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::dequantise;

    // Every type: with each of its numbers and scales broken in turn, and as it was.
    #[test]
    fn what_is_not_finite_is_found_where_it_is() {
        for kind in TensorType::SUPPORTED {
            let block = kind.block().unwrap();
            let (size, weights) = (block.bytes as usize, block.weights as usize);
            let fine = vec![0x11; 5 * size];
            check_finite(kind, &fine).unwrap();
            let places = match kind {
                TensorType::F32 => vec![2],
                TensorType::F16 | TensorType::BF16 => vec![0],
                _ => scales_at(kind).to_vec(),
            };
            assert!(!places.is_empty(), "{kind}");
            for (i, at) in (0..5).flat_map(|i| places.iter().map(move |at| (i, at))) {
                // Infinite both ways, and no numbers both ways, in half precision, bf16 and f32 alike.
                let broken: [u16; 4] = match kind {
                    TensorType::F32 | TensorType::BF16 => [0x7f80, 0xff80, 0x7fc0, 0xff81],
                    _ => [0x7c00, 0xfc00, 0x7e00, 0xfc01],
                };
                for bits in broken {
                    let mut bytes = fine.clone();
                    bytes[i * size + at..][..2].copy_from_slice(&bits.to_le_bytes());
                    let message = check_finite(kind, &bytes).unwrap_err().to_string();
                    let (first, last) = (i * weights, (i + 1) * weights - 1);
                    let what = match weights {
                        1 => format!("weight {i} is "),
                        _ => format!("a scale of weights {first} to {last} is "),
                    };
                    assert!(message.contains(&what), "{kind}: {message}");
                    let floats = dequantise(kind, &bytes).unwrap();
                    let spoilt = floats.iter().position(|v| !v.is_finite()).unwrap();
                    assert_eq!(spoilt / weights, i, "{kind}");
                }
                // The largest are fine.
                let mut bytes = fine.clone();
                let most: u16 = match kind {
                    TensorType::F32 | TensorType::BF16 => 0x7f7f,
                    _ => 0x7bff,
                };
                bytes[i * size + at..][..2].copy_from_slice(&most.to_le_bytes());
                check_finite(kind, &bytes).unwrap();
            }
        }
    }
}
