//! The other kernels of `shaders/model`.

use super::tiers;
use crate::formats::WeightFormat;
use crate::gpu::{ShaderSpec, Tier};

crate::words! {
    /// `Embed` in the shader.
    pub struct EmbedParams {
        /// Units of 32 weights in a row of the table.
        pub units: u32,
        /// Tokens in this part.
        pub rows: u32,
        /// The first of them.
        pub first_row: u32,
        /// What embeddings are multiplied by.
        pub factor: f32,
    }

    /// `RmsNorm` in the shader.
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

    /// Rows of floats: `ArgMax`, `ExpertSum` and `Rows` in the shaders.
    pub struct RowsParams {
        /// Floats in a row that count.
        pub width: u32,
        /// Floats from one row to the next.
        pub stride: u32,
    }

    /// Rows of floats of any width: `Scores` and `Route` in the shaders.
    pub struct StrideParams {
        /// Floats from one row to the next.
        pub stride: u32,
    }
}

crate::bindings! {
    /// Of [`embed`].
    pub struct Embed {
        /// The step, whose rows name the tokens.
        step: read,
        /// The part of the table.
        embed: uniform EmbedParams,
        /// \[token of the part\]\[unit\]: the plane of weights, [`WeightFormat::unit_bytes`] a unit.
        weights: read,
        /// The plane of scales, in [`WeightFormat::scale_bytes`]; one word that is not read where there are none.
        scales: read,
        /// \[row\]\[32 * units\], f32.
        x: write,
    }

    /// Of [`rms_norm`].
    pub struct RmsNorm {
        /// The step.
        step: read,
        /// Rows of `x` and `y`.
        rms_norm: uniform RmsNormParams,
        /// \[row\]\[`x_stride`\], f32.
        x: read,
        /// \[width\], f32.
        weight: read,
        /// \[row\]\[`y_stride`\], f32.
        y: write,
        /// Of [`Normed::Halved`]: \[row\]\[`y_stride`\] words, what [`half_rows`](super::half_rows) makes of `y`.
        halves: optional write,
    }

    /// Of [`arg_max_part`].
    pub struct ArgMaxPart {
        /// Rows of `values`.
        arg_max: uniform RowsParams,
        /// \[row\]\[stride\], f32.
        values: read,
        /// \[row\]\[part\], of [`arg_max_parts`]: the best value's key and place.
        parts: write,
    }

    /// Of [`arg_max`].
    pub struct ArgMax {
        /// Rows of the values.
        arg_max: uniform RowsParams,
        /// As in [`ArgMaxPart`].
        parts: read,
        /// \[row\]: the index of the largest, or `u32::MAX`.
        winners: write,
    }
}

/// Grid: (ceil(units / 8), rows).
pub fn embed(format: WeightFormat) -> ShaderSpec {
    ShaderSpec::new("model/embed.wgsl").slot("weights", format.file())
}

/// What [`rms_norm`] makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normed {
    /// Each row.
    Rows,
    /// Each row, of a multiple of 32 floats, and the same as f16 beside.
    Halved,
    /// Output row i of the i-th row whose logits are wanted.
    Wanted,
    /// What is added to each row of the output.
    Added,
}

/// Grid: (output rows).
pub fn rms_norm(tier: &Tier, normed: Normed) -> ShaderSpec {
    ShaderSpec::new("model/rms_norm.wgsl")
        .constant("GATHER", normed == Normed::Wanted)
        .constant("ADDS", normed == Normed::Added)
        .slot(
            "halved",
            match normed {
                Normed::Halved => "lib/halved_f16.wgsl",
                Normed::Rows | Normed::Wanted | Normed::Added => "lib/halved_none.wgsl",
            },
        )
        .constant("WORKGROUP", tiers::of(tier).lanes)
}

/// Parts of a row of `width` values that [`arg_max_part`] looks at one by one.
pub fn arg_max_parts(width: u32) -> u32 {
    width.div_ceil(4096)
}

/// Grid: ([`arg_max_parts`], rows).
pub fn arg_max_part() -> ShaderSpec {
    ShaderSpec::new("model/arg_max_part.wgsl")
}

/// Of what [`arg_max_part`] found. Grid: (rows).
pub fn arg_max() -> ShaderSpec {
    ShaderSpec::new("model/arg_max.wgsl")
}
