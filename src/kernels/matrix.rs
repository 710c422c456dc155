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

/// Lanes that share four rows of `units` units in [`matvec`]: a workgroup has 64.
fn matvec_lanes(tier: &Tier, units: u32) -> u32 {
    if tier.emulates_lanes() || units < 12 { 8 } else { 32 }
}

/// A few tokens at a time, by the kernel that suits the adapter's tier and rows of `units` units.
pub fn matvec(
    tier: &Tier,
    format: WeightFormat,
    units: u32,
    output: Output,
    batch: Batch<'_>,
) -> ShaderSpec {
    let spec = ShaderSpec::new(tier.matvec)
        .slot("weights", format.file())
        .slot("output", output.file())
        .constant("LANES", matvec_lanes(tier, units));
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
    (rows.div_ceil(256 / matvec_lanes(tier, units)), tokens)
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
