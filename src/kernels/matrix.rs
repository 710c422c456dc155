//! `shaders/model/matvec.wgsl` and `matmul.wgsl`: products with weight matrices.

use super::WeightFormat;
use crate::gpu::{ShaderSpec, Tier};

/// What becomes of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Written.
    Store,
    /// Added to what is there.
    Add,
    /// Pairs of rows (gate, up) make silu(gate) * up.
    SwiGlu,
}

impl Output {
    /// The file that fills the slot `<output>`.
    pub fn file(self) -> &'static str {
        match self {
            Self::Store => "lib/output_store.wgsl",
            Self::Add => "lib/output_add.wgsl",
            Self::SwiGlu => "lib/output_swiglu.wgsl",
        }
    }
}

/// `Matrix` in the shaders.
#[repr(C)]
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
pub struct MatrixParams {
    /// Units of 32 weights in a row.
    pub units: u32,
    /// Rows of this part.
    pub rows: u32,
    /// First row of this part in the whole matrix.
    pub first_row: u32,
    /// Floats from one token's input to the next.
    pub x_stride: u32,
    /// Floats from one token's output to the next.
    pub y_stride: u32,
}

/// A few tokens at a time, by the kernel that suits the adapter's tier.
pub fn matvec(tier: &Tier, format: WeightFormat, output: Output) -> ShaderSpec {
    ShaderSpec::new(tier.matvec).slot("weights", format.file()).slot("output", output.file())
}

/// The grid of [`matvec`].
pub fn matvec_grid(rows: u32, tokens: u32) -> (u32, u32) {
    (rows.div_ceil(32), tokens)
}

/// Many tokens at a time, by the kernel that suits the adapter's tier.
pub fn matmul(tier: &Tier, format: WeightFormat, output: Output) -> ShaderSpec {
    ShaderSpec::new(tier.matmul).slot("weights", format.file()).slot("output", output.file())
}

/// The grid of [`matmul`].
pub fn matmul_grid(rows: u32, tokens: u32) -> (u32, u32) {
    (rows.div_ceil(64), tokens.div_ceil(64))
}
