//! How a tensor's weights are stored.

use std::fmt::{self, Display};

use crate::Error;

/// A storage type: plain numbers, or blocks of quantised weights with their scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TensorType {
    /// 32-bit floats.
    F32,
    /// Half-precision floats.
    F16,
    /// The upper halves of 32-bit floats.
    BF16,
    /// 8 bits and a scale.
    Q8_0,
    /// 4 bits around zero and a scale.
    Q4_0,
    /// 4 bits, a scale and a minimum.
    Q4_1,
    /// 5 bits around zero and a scale.
    Q5_0,
    /// 5 bits, a scale and a minimum.
    Q5_1,
    /// 4 bits with two levels of scales and minima.
    Q4K,
    /// 5 bits with two levels of scales and minima.
    Q5K,
    /// 6 bits with two levels of scales.
    Q6K,
    /// Any other type, by its number in the file.
    Other(u32),
}

/// The unit in which a type stores weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// How many weights a block holds.
    pub weights: u64,
    /// How many bytes it takes.
    pub bytes: u64,
}

/// Number in the file, name, weights a block, bytes a block.
///
/// Types that nothing here computes with are listed all the same, so that messages can name them and the size of a
/// tensor that is never used is known. Numbers without a row were withdrawn from the format.
const TYPES: [(u32, &str, u64, u64); 34] = [
    (0, "F32", 1, 4),
    (1, "F16", 1, 2),
    (2, "Q4_0", 32, 18),
    (3, "Q4_1", 32, 20),
    (6, "Q5_0", 32, 22),
    (7, "Q5_1", 32, 24),
    (8, "Q8_0", 32, 34),
    (9, "Q8_1", 32, 36),
    (10, "Q2_K", 256, 84),
    (11, "Q3_K", 256, 110),
    (12, "Q4_K", 256, 144),
    (13, "Q5_K", 256, 176),
    (14, "Q6_K", 256, 210),
    (15, "Q8_K", 256, 292),
    (16, "IQ2_XXS", 256, 66),
    (17, "IQ2_XS", 256, 74),
    (18, "IQ3_XXS", 256, 98),
    (19, "IQ1_S", 256, 50),
    (20, "IQ4_NL", 32, 18),
    (21, "IQ3_S", 256, 110),
    (22, "IQ2_S", 256, 82),
    (23, "IQ4_XS", 256, 136),
    (24, "I8", 1, 1),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (28, "F64", 1, 8),
    (29, "IQ1_M", 256, 56),
    (30, "BF16", 1, 2),
    (34, "TQ1_0", 256, 54),
    (35, "TQ2_0", 256, 66),
    (39, "MXFP4", 32, 17),
    (40, "NVFP4", 64, 36),
    (41, "Q1_0", 128, 18),
];

impl TensorType {
    /// The types that can be computed with; any other can only be named.
    pub const SUPPORTED: [Self; 11] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// That weights of this type were met, and what is supported.
    pub(crate) fn unsupported(self) -> Error {
        let [first @ .., last] = Self::SUPPORTED.map(|kind| kind.to_string());
        Error::Model(format!(
            "weights of type {self} are not supported; {} and {last} are",
            first.join(", ")
        ))
    }

    /// The type with this number in the file.
    pub fn from_id(id: u32) -> Self {
        match id {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            12 => Self::Q4K,
            13 => Self::Q5K,
            14 => Self::Q6K,
            30 => Self::BF16,
            other => Self::Other(other),
        }
    }

    /// The type's number in the file.
    pub fn id(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q4K => 12,
            Self::Q5K => 13,
            Self::Q6K => 14,
            Self::BF16 => 30,
            Self::Other(id) => id,
        }
    }

    /// The type's usual name, such as `Q4_K`; `None` for a number that is not known.
    pub fn name(self) -> Option<&'static str> {
        self.row().map(|row| row.1)
    }

    /// The type's block; `None` for a number that is not known.
    pub fn block(self) -> Option<Block> {
        self.row().map(|row| Block { weights: row.2, bytes: row.3 })
    }

    fn row(self) -> Option<&'static (u32, &'static str, u64, u64)> {
        let id = self.id();
        TYPES.iter().find(|row| row.0 == id)
    }
}

/// The name, or the number where there is no name.
impl Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "unknown type {}", self.id()),
        }
    }
}
