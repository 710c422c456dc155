//! `shaders/model/matvec.wgsl` and `matmul.wgsl`: products with weight matrices.

use super::WeightFormat;
use crate::gpu::{ShaderSpec, Tier};
use crate::model::config::Experts;

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
    /// Of a batched product: the first matrix of this part.
    pub first_batch: u32,
    /// Of a batched product: matrices in this part.
    pub batches: u32,
    /// Of a batched product: floats from one matrix's input to the next.
    pub x_batch: u32,
    /// Of a batched product: floats from one matrix's output to the next.
    pub y_batch: u32,
}

/// Which of several matrices of the same shape a token is multiplied by.
#[derive(Clone, Copy, Debug)]
pub enum Batch<'a> {
    /// There is one.
    One,
    /// Each head's own, for its slice of input and output.
    Heads,
    /// Those of the token's experts: inputs are tokens', outputs are entries'.
    ExpertsOut(&'a Experts),
    /// Those of the token's experts: inputs are entries'. A few tokens' outputs are weighed and summed, many tokens' are
    /// entries', to be summed by `expert_sum`.
    ExpertsIn(&'a Experts),
}

/// What [`matvec`] multiplies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Input {
    /// Inputs as they are.
    Plain,
    /// Their RMSNorm: not where [lanes are emulated](Tier::emulates_lanes), since that reads the norm's weights once more.
    Normed {
        /// Floats of an input that count.
        width: u32,
        /// Added to the mean square.
        epsilon: f32,
    },
}

/// Lanes of a workgroup of [`matvec`], and of them those that share four rows, for a matrix of so many rows and units a row.
fn matvec_lanes(rows: u32, units: u32) -> (u32, u32) {
    // Few rows are spread over many small workgroups. Of many rows, small teams fill the device too.
    let (workgroup, most) = match rows {
        ..1024 => (64, 64),
        1024..16_384 => (256, 64),
        16_384.. => (128, 32),
    };
    let team = match units {
        ..12 => 8,
        12..48 => 32,
        48.. => most,
    };
    (workgroup, team)
}

/// A few tokens at a time, by the kernel that suits the adapter's tier and `rows` rows of `units` units.
pub fn matvec(
    tier: &Tier,
    format: WeightFormat,
    (rows, units): (u32, u32),
    input: Input,
    output: Output,
    batch: Batch<'_>,
) -> ShaderSpec {
    let mut spec =
        ShaderSpec::new(tier.matvec).slot("weights", format.file()).slot("output", output.file());
    if !tier.emulates_lanes() {
        let (workgroup, team) = matvec_lanes(rows, units);
        spec = spec.constant("WORKGROUP", workgroup).constant("LANES", team);
        spec = match input {
            Input::Plain => spec.slot("input", "lib/input_plain.wgsl"),
            Input::Normed { width, epsilon } => spec
                .slot("input", "lib/input_normed.wgsl")
                .constant("WIDTH", width)
                .constant("EPSILON", epsilon),
        };
    }
    match batch {
        Batch::One => spec.slot("batch", "lib/batch_one.wgsl"),
        Batch::Heads => spec.slot("batch", "lib/batch_heads.wgsl"),
        Batch::ExpertsOut(experts) => {
            spec.slot("batch", "lib/batch_slots.wgsl").constant("SLOTS", experts.slots())
        }
        Batch::ExpertsIn(experts) => {
            spec.slot("batch", "lib/batch_sum.wgsl").constant("SLOTS", experts.slots())
        }
    }
}

/// The first two dimensions of [`matvec`]'s grid; the third counts heads, slots, or is 1.
pub fn matvec_grid(tier: &Tier, units: u32, rows: u32, tokens: u32) -> (u32, u32) {
    // Lanes that are emulated have four rows each, in workgroups of eight.
    let (workgroup, team) = if tier.emulates_lanes() { (8, 1) } else { matvec_lanes(rows, units) };
    (rows.div_ceil(4 * workgroup / team), tokens)
}

/// Many tokens at a time, by the kernel that suits the adapter's tier. Heads are not multiplied by this one.
pub fn matmul(tier: &Tier, format: WeightFormat, output: Output, batch: Batch<'_>) -> ShaderSpec {
    let spec =
        ShaderSpec::new(tier.matmul).slot("weights", format.file()).slot("output", output.file());
    let of_experts = |experts: &Experts, by_slot: bool| {
        spec.clone()
            .slot("tokens", "lib/tokens_of_expert.wgsl")
            .constant("EXPERTS", experts.total())
            .constant("SLOTS", experts.slots())
            .constant("INPUT_BY_SLOT", by_slot)
    };
    match batch {
        Batch::One | Batch::Heads => spec.slot("tokens", "lib/tokens_all.wgsl"),
        Batch::ExpertsOut(experts) => of_experts(experts, false),
        Batch::ExpertsIn(experts) => of_experts(experts, true),
    }
}

/// The first two dimensions of [`matmul`]'s grid; the third counts the experts of the part, or is 1.
pub fn matmul_grid(rows: u32, tokens: u32) -> (u32, u32) {
    (rows.div_ceil(64), tokens.div_ceil(64))
}
