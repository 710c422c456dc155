//! Weight formats on the GPU, and the repacking of a file's rows into them. Quantised weights stay quantised; scales
//! and weights lie in planes of their own, so that every load is aligned.

use crate::model::gguf::TensorType;
use crate::{Error, Result};
use half::f16;

/// How a part of a weight matrix is stored on the GPU: which `shaders/lib/weights_*` reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightFormat {
    /// d * q + m in blocks of 32, four bits a weight: Q4_0 and Q4_1.
    Q4,
    /// d * q in blocks of 32, eight bits a weight: Q8_0.
    Q8,
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    BF16,
    /// Single precision.
    F32,
}

impl WeightFormat {
    /// The weights that kernels take at a time.
    pub const UNIT: u64 = 32;

    /// Every format.
    pub const ALL: [Self; 5] = [Self::Q4, Self::Q8, Self::F16, Self::BF16, Self::F32];

    /// The format for a file's tensor type.
    ///
    /// # Errors
    /// [`Error::Model`] naming the type and what is supported.
    pub fn of(kind: TensorType) -> Result<Self> {
        Ok(match kind {
            TensorType::Q4_0 | TensorType::Q4_1 => Self::Q4,
            TensorType::Q8_0 => Self::Q8,
            TensorType::F16 => Self::F16,
            TensorType::BF16 => Self::BF16,
            TensorType::F32 => Self::F32,
            other => {
                return Err(Error::Model(format!(
                    "weights of type {other} are not supported; F32, F16, BF16, Q8_0, Q4_0 and Q4_1 are"
                )));
            }
        })
    }

    /// The file that fills the slot `<weights>`.
    pub fn file(self) -> &'static str {
        match self {
            Self::Q4 => "lib/weights_q4.wgsl",
            Self::Q8 => "lib/weights_q8.wgsl",
            Self::F16 => "lib/weights_f16.wgsl",
            Self::BF16 => "lib/weights_bf16.wgsl",
            Self::F32 => "lib/weights_f32.wgsl",
        }
    }

    /// Bytes of one unit in the plane of weights.
    pub fn unit_bytes(self) -> u64 {
        match self {
            Self::Q4 => 16,
            Self::Q8 => 32,
            Self::F16 | Self::BF16 => 64,
            Self::F32 => 128,
        }
    }

    /// Bytes of one unit in the plane of scales.
    pub fn scale_bytes(self) -> u64 {
        match self {
            Self::Q4 | Self::Q8 => 4,
            Self::F16 | Self::BF16 | Self::F32 => 0,
        }
    }
}

/// Rows in a GPU format.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// The plane of weights.
    pub weights: Vec<u32>,
    /// The plane of scales: d and m as f16, one word a unit; empty for formats without.
    pub scales: Vec<u32>,
}

/// Appends one row of a file's tensor to `packed`, zero-padded to whole units.
///
/// # Errors
/// As [`WeightFormat::of`].
pub fn pack_row(kind: TensorType, row: &[u8], packed: &mut Packed) -> Result<()> {
    let Packed { weights, scales } = packed;
    let words = |bytes: &[u8]| -> Vec<u32> {
        bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    };
    match kind {
        TensorType::Q4_0 => {
            for block in row.chunks_exact(18) {
                let d = f16::from_le_bytes([block[0], block[1]]);
                // Q4_0 is d * (q - 8): an exact -8 d, unless it overflows, which no trained scale does.
                let m = f16::from_f32(-8.0 * d.to_f32());
                if d.is_finite() && !m.is_finite() {
                    return Err(Error::Model(format!(
                        "a Q4_0 scale is {d}, but at most 8188 is supported"
                    )));
                }
                scales.push(u32::from(d.to_bits()) | u32::from(m.to_bits()) << 16);
                weights.extend(pack_nibbles(&block[2..18]));
            }
        }
        TensorType::Q4_1 => {
            for block in row.chunks_exact(20) {
                scales.push(u32::from_le_bytes([block[0], block[1], block[2], block[3]]));
                weights.extend(pack_nibbles(&block[4..20]));
            }
        }
        TensorType::Q8_0 => {
            for block in row.chunks_exact(34) {
                scales.push(u32::from(u16::from_le_bytes([block[0], block[1]])));
                weights.extend(words(&block[2..34]));
            }
        }
        TensorType::F16 | TensorType::BF16 => {
            let whole = row.len() / 64 * 64;
            weights.extend(words(&row[..whole]));
            pad(&row[whole..], 64, weights);
        }
        TensorType::F32 => {
            let whole = row.len() / 128 * 128;
            weights.extend(words(&row[..whole]));
            pad(&row[whole..], 128, weights);
        }
        other => {
            WeightFormat::of(other)?;
        }
    }
    Ok(())
}

// The rest of a row, filled up with zeros to one unit.
fn pad(rest: &[u8], unit_bytes: usize, weights: &mut Vec<u32>) {
    if rest.is_empty() {
        return;
    }
    let mut unit = vec![0; unit_bytes];
    unit[..rest.len()].copy_from_slice(rest);
    weights.extend(unit.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])));
}

// A file's block holds weight i in the low nibble of byte i and weight i + 16 in its high nibble. Kernels want word w to
// hold weights 8w .. 8w+3 in the low nibbles of its bytes and 8w+4 .. 8w+7 in the high ones.
fn pack_nibbles(block: &[u8]) -> [u32; 4] {
    let weight = |i: usize| u32::from(if i < 16 { block[i] & 15 } else { block[i - 16] >> 4 });
    std::array::from_fn(|w| {
        (0..4).fold(0, |word, i| {
            word | weight(8 * w + i) << (8 * i) | weight(8 * w + 4 + i) << (8 * i + 4)
        })
    })
}
