//! The other kernels of `shaders/model`.

use super::WeightFormat;
use crate::gpu::{ShaderSpec, Tier};

/// `Embed` in the shader.
#[repr(C)]
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
pub struct EmbedParams {
    /// Units of 32 weights in a row of the table.
    pub units: u32,
    /// Tokens in this part.
    pub rows: u32,
    /// The first of them.
    pub first_row: u32,
}

/// `RmsNorm` in the shader.
#[repr(C)]
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
pub struct RmsNormParams {
    /// Floats in a row that count.
    pub width: u32,
    /// Floats from one row to the next.
    pub x_stride: u32,
    /// Floats from one row that is written to the next.
    pub y_stride: u32,
    /// Added to the mean square.
    pub epsilon: f32,
}

/// Rows of floats: `ArgMax`, `ExpertSum` and, with `stride` alone, `Scores` in the shaders.
#[repr(C)]
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
pub struct RowsParams {
    /// Floats in a row that count.
    pub width: u32,
    /// Floats from one row to the next.
    pub stride: u32,
}

/// Grid: (ceil(units / 8), rows).
pub fn embed(format: WeightFormat) -> ShaderSpec {
    ShaderSpec::new("model/embed.wgsl").slot("weights", format.file())
}

/// With `gather`, output row i is made of the i-th row whose logits are wanted. Grid: (output rows).
pub fn rms_norm(tier: &Tier, gather: bool) -> ShaderSpec {
    ShaderSpec::new("model/rms_norm.wgsl")
        .constant("GATHER", gather)
        .constant("WORKGROUP", tier.lanes)
}

/// Grid: (rows).
pub fn arg_max() -> ShaderSpec {
    ShaderSpec::new("model/arg_max.wgsl")
}
