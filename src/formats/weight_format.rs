//! Weight formats on the GPU. Quantised weights stay quantised; weights and scales lie in planes of their own, so that
//! every load is aligned.

use super::TensorType;
use crate::Result;

/// How a part of a weight matrix is stored on the GPU: which `shaders/lib/weights_*` reads it.
///
/// Scales are those of the file: scales of 6 or 8 bits are multiplied with their block's d where they are used, since
/// the product of both rounded to half precision would be another weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightFormat {
    /// d * (q - 8) in blocks of 32, four bits a weight.
    Q4_0,
    /// d * q + m in blocks of 32, four bits a weight.
    Q4_1,
    /// d * q + m in blocks of 32, five bits a weight: Q5_0 and Q5_1.
    Q5,
    /// d * q in blocks of 32, eight bits a weight: Q8_0.
    Q8,
    /// d * scale * q - dmin * min: 32 weights of four bits share scale and min, 256 share d and dmin.
    Q4K,
    /// As [`Self::Q4K`] with five bits a weight.
    Q5K,
    /// d * scale * q: 16 weights of six bits share a scale, 256 share d.
    Q6K,
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
    pub const ALL: [Self; 10] = [
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5,
        Self::Q8,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::F16,
        Self::BF16,
        Self::F32,
    ];

    /// The format for a file's tensor type.
    ///
    /// # Errors
    /// [`Error::Model`](crate::Error::Model) naming the type and what is supported.
    pub fn of(kind: TensorType) -> Result<Self> {
        Ok(match kind {
            TensorType::Q4_0 => Self::Q4_0,
            TensorType::Q4_1 => Self::Q4_1,
            TensorType::Q5_0 | TensorType::Q5_1 => Self::Q5,
            TensorType::Q8_0 => Self::Q8,
            TensorType::Q4K => Self::Q4K,
            TensorType::Q5K => Self::Q5K,
            TensorType::Q6K => Self::Q6K,
            TensorType::F16 => Self::F16,
            TensorType::BF16 => Self::BF16,
            TensorType::F32 => Self::F32,
            TensorType::Other(_) => return Err(kind.unsupported()),
        })
    }

    /// Whether weights are integers times a scale.
    pub fn is_quantised(self) -> bool {
        !matches!(self, Self::F16 | Self::BF16 | Self::F32)
    }

    /// The file that fills the slot `<weights>`.
    pub fn file(self) -> &'static str {
        match self {
            Self::Q4_0 => "lib/weights_q4_0.wgsl",
            Self::Q4_1 => "lib/weights_q4_1.wgsl",
            Self::Q5 => "lib/weights_q5.wgsl",
            Self::Q8 => "lib/weights_q8.wgsl",
            Self::Q4K => "lib/weights_q4_k.wgsl",
            Self::Q5K => "lib/weights_q5_k.wgsl",
            Self::Q6K => "lib/weights_q6_k.wgsl",
            Self::F16 => "lib/weights_f16.wgsl",
            Self::BF16 => "lib/weights_bf16.wgsl",
            Self::F32 => "lib/weights_f32.wgsl",
        }
    }

    /// Bytes of one unit in the plane of weights.
    pub fn unit_bytes(self) -> u64 {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q5 | Self::Q4K | Self::Q5K => 16,
            Self::Q6K => 24,
            Self::Q8 => 32,
            Self::F16 | Self::BF16 => 64,
            Self::F32 => 128,
        }
    }

    /// Bytes of `units` units, whole blocks of the file, in the plane of scales.
    pub fn scale_bytes(self, units: u64) -> u64 {
        match self {
            // A half each, in whole words.
            Self::Q4_0 | Self::Q8 => units.div_ceil(2) * 4,
            Self::Q4_1 => units * 4,
            Self::Q5 => units * 8,
            // Eight units share one, three or one and a quarter vec4.
            Self::Q4K => units / 8 * 16,
            Self::Q5K => units / 8 * 48,
            Self::Q6K => units / 8 * 20,
            Self::F16 | Self::BF16 | Self::F32 => 0,
        }
    }
}
