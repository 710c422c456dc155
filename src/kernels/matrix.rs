//! `shaders/model/matvec.wgsl` and `matmul.wgsl`: products with weight matrices, and what prepares them for f16.

use super::RowsParams;
use super::attend::with_cap;
use super::tiers::{self, Matmul};
use crate::attention::{Activation, Experts};
use crate::formats::WeightFormat;
use crate::gpu::{ShaderSpec, Tier};

/// The use of a product's result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Output {
    /// Written.
    Store,
    /// Written under this soft-cap.
    Capped(f32),
    /// Added to what is there.
    Add,
    /// Pairs of rows (gate, up) make activated(gate) * up.
    Glu(Activation),
    /// The output's old numbers are a gate: activated(gate) * product.
    Gated(Activation),
}

impl Output {
    /// Fills the slot `<output>`, and those of the file that fills it.
    fn fill(self, spec: ShaderSpec) -> ShaderSpec {
        let activated = |file, activation| {
            let by = match activation {
                Activation::Silu => "lib/activation_silu.wgsl",
                Activation::Gelu => "lib/activation_gelu.wgsl",
            };
            spec.clone().slot("output", file).slot("activation", by)
        };
        match self {
            // Any activation does where there is none.
            Self::Store | Self::Add => activated("lib/output_any.wgsl", Activation::Silu),
            Self::Capped(cap) => with_cap(spec.slot("output", "lib/output_capped.wgsl"), Some(cap)),
            Self::Glu(activation) => activated("lib/output_any.wgsl", activation),
            Self::Gated(activation) => activated("lib/output_gated.wgsl", activation),
        }
    }

    /// [`MatrixParams::output`], and its name in `lib/output_any.wgsl`, if that makes it.
    fn kind(self) -> (u32, Option<&'static str>) {
        match self {
            Self::Store => (0, Some("STORED")),
            Self::Add => (1, Some("ADDED")),
            Self::Glu(_) => (2, Some("GATED_UNITS")),
            Self::Capped(_) | Self::Gated(_) => (0, None),
        }
    }

    /// Names it in the text of a kernel that is not told by [`MatrixParams`].
    fn named(self, spec: ShaderSpec) -> ShaderSpec {
        match self.kind().1 {
            Some(name) => spec.slot("output_kind", name),
            None => spec,
        }
    }

    /// Rows that make one number.
    pub fn rows(self) -> u32 {
        if matches!(self, Self::Glu(_)) { 2 } else { 1 }
    }
}

crate::words! {
    /// `Matrix` in the shaders.
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
        /// Where weights become f16: what [`weight_shift`] makes of the largest.
        pub weight_shift: i32,
        /// What becomes of the product: [`MatrixParams::of_output`]. For [`matvec`] and [`matmul_narrow`]; the text of [`matmul`] says it.
        pub output: u32,
        /// Of [`matvec`], as what follows: [`MatrixParams::of_matvec`]. Floats of an input that are normed, or none.
        pub normed: u32,
        /// Added to the mean square of inputs that are normed.
        pub epsilon: f32,
        /// Of quantised weights: the teams of a workgroup that have the same rows are 2 to this power.
        pub share_bits: u32,
        /// Of quantised weights: how often a workgroup takes rows.
        pub turns: u32,
    }

    /// The parameters of `model/largest_weight.wgsl`.
    pub struct LargestWeightParams {
        /// Units of 32 weights in the part.
        pub units: u32,
        /// Lanes of all workgroups.
        pub lanes: u32,
    }
}

crate::bindings! {
    /// Of [`matvec`] and [`matmul`].
    pub struct Product {
        /// The step, whose rows are the tokens.
        step: read,
        /// The part of the matrix.
        matrix: uniform MatrixParams,
        /// \[row\]\[unit\]: the plane of weights, [`WeightFormat::unit_bytes`] a unit.
        weights: read,
        /// The plane of scales, in [`WeightFormat::scale_bytes`]; one word that is not read where there are none.
        scales: read,
        /// \[token\]\[`x_stride`\], f32; for [`matmul`] on matrix units what [`half_rows`] makes of them.
        x: read,
        /// \[token\]\[`y_stride`\], f32.
        y: write,
        /// \[token\]\[slot\]: expert and weight, for [`matvec`] with experts.
        slots: optional read,
        /// Entries by expert, as `expert_lists` makes them, for [`matmul`] with experts.
        lists: optional read,
        /// \[width\], f32: weights of the norm of inputs, where [`matvec_norms`]; any buffer where nothing is normed.
        norm_weight: optional read,
    }

    /// Of [`half_rows`].
    pub struct HalfRows {
        /// Rows of `x`, whose width is a multiple of 32.
        rows: uniform RowsParams,
        /// \[row\]\[stride\], f32.
        x: read,
        /// \[row\]\[stride\] words, of which a half holds the row's numbers as f16, and then its shift.
        halves: write,
    }

    /// Of [`largest_weight`].
    pub struct LargestWeight {
        /// One word: the largest magnitude so far, f32.
        largest: write,
        /// Units, and lanes that share them.
        sizes: uniform LargestWeightParams,
        /// As in [`Product`].
        weights: read,
        /// As in [`Product`].
        scales: read,
    }
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

/// The input of [`matvec`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Input {
    /// Inputs as they are.
    Plain,
    /// Their RMSNorm: not where [lanes are emulated](Tier::emulates_lanes), which would read the norm's weights once more.
    Normed {
        /// Floats of an input that count.
        width: u32,
        /// Added to the mean square.
        epsilon: f32,
    },
}

/// The tokens of [`matvec`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tokens {
    /// One a workgroup, whatever they are.
    One,
    /// So many a workgroup, of the step's rows.
    Rows(u32),
    /// So many a workgroup, of the step's outputs.
    Outputs(u32),
}

impl Tokens {
    /// How many a workgroup has.
    pub fn of_a_workgroup(self) -> u32 {
        match self {
            Self::One => 1,
            Self::Rows(tokens) | Self::Outputs(tokens) => tokens,
        }
    }

    /// The file that fills the slot `<count>`.
    fn file(self) -> &'static str {
        match self {
            Self::One => "lib/count_one.wgsl",
            Self::Rows(_) => "lib/count_rows.wgsl",
            Self::Outputs(_) => "lib/count_outputs.wgsl",
        }
    }
}

/// The kernel of [`matvec`] on a tier for a matrix of so many rows and units a row.
struct MatvecKernel {
    file: &'static str,
    /// Lanes of a workgroup, and of them those of a team, which has four rows.
    lanes: (u32, u32),
    /// More of the one for quantised weights.
    quants: Option<Quants>,
}

/// How `matvec_quants` goes through a matrix.
#[derive(Clone, Copy)]
struct Quants {
    /// The teams that have the same rows are 2 to this power.
    share_bits: u32,
    /// How often a workgroup takes rows.
    turns: u32,
    /// Units whose inputs its workgroup memory holds, those of all tokens: of each token a multiple of what all teams of the same
    /// rows take at a time, so that sums are in one order whatever the number of tokens.
    inputs: u32,
}

impl Quants {
    /// Units whose inputs are in workgroup memory at a time, of each token. Small workgroups take no more memory than their rows need, so
    /// that many fit; of large ones all are alike, so that matrices of other lengths have the same kernel.
    fn portion(self, (workgroup, team): (u32, u32), units: u32, tokens: u32) -> u32 {
        let most = self.inputs / tokens;
        if workgroup < LARGE {
            most.min(units.next_multiple_of(team << self.share_bits))
        } else {
            most
        }
    }
}

/// Lanes of the least workgroup that quantised weights of many rows have.
const LARGE: u32 = 256;

impl MatvecKernel {
    fn of(tier: &Tier, format: WeightFormat, (rows, units): (u32, u32)) -> Self {
        let kernels = tiers::of(tier);
        let floats = Self { file: kernels.matvec, lanes: matvec_lanes(rows, units), quants: None };
        if tier.emulates_lanes() {
            // Lanes that are emulated have four rows each, in workgroups of eight.
            return Self { lanes: (8, 1), ..floats };
        }
        match kernels.matvec_quants.filter(|_| format.is_quantised()) {
            None => floats,
            Some(inputs) => Self::of_quants(tier, (rows, units), inputs),
        }
    }

    fn of_quants(tier: &Tier, (rows, units): (u32, u32), inputs: u32) -> Self {
        // Workgroups that fill a large device.
        const FILL: u32 = 128;
        let team = if units < 12 { 8 } else { 32 };
        // Of many rows large workgroups, since each makes integers of all inputs.
        let workgroup = if rows < 1024 { 64 } else { tier.workgroup_lanes.min(512) };
        let rows_at_once = 4 * workgroup / team;
        // Where that leaves room, twice as many workgroups have more of the matrix on its way.
        let has_room = rows >= 1024 && 2 * rows.div_ceil(rows_at_once) <= FILL;
        let share_bits = u32::from(has_room && units >= 2 * team);
        // Integers of all tokens' inputs stay for the next rows.
        let stay = units * tokens_at_a_time(tier) <= inputs;
        let turns = if stay && rows >= 2 * FILL * rows_at_once {
            rows.div_ceil(rows_at_once * FILL)
        } else {
            1
        };
        Self {
            file: "model/matvec_quants.wgsl",
            lanes: (workgroup, team),
            quants: Some(Quants { share_bits, turns, inputs }),
        }
    }

    /// Rows of a workgroup.
    fn rows(&self) -> u32 {
        let rows = 4 * self.lanes.0 / self.lanes.1;
        self.quants.map_or(rows, |quants| (rows >> quants.share_bits) * quants.turns)
    }
}

/// Whether [`matvec`] norms its inputs where it is told to, and so binds [`Product::norm_weight`].
pub fn matvec_norms(tier: &Tier) -> bool {
    !tier.emulates_lanes()
}

/// Whether [`matvec`] makes integers of 16 bits of inputs that this format multiplies.
pub fn quantises_inputs(tier: &Tier, format: WeightFormat) -> bool {
    MatvecKernel::of(tier, format, (1, 1)).quants.is_some()
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

/// Tokens of [`matvec`] at most: up to so many, it costs less than a tile's idle lanes, or than what prepares inputs of a tile.
pub const MATVEC_TOKENS: u32 = 4;

/// Tokens of [`matvec`] at most where one matrix of this format multiplies them; [`matmul_narrow`] or [`matmul`] takes more.
pub fn matvec_tokens(tier: &Tier, format: WeightFormat) -> u32 {
    // Tiles of floats multiply what does not become f16: a router's weights, which has few rows.
    let floats = tokens_at_a_time(tier) > 1 && !multiplies_halves(tier, format);
    if floats { 16 } else { MATVEC_TOKENS }
}

impl MatrixParams {
    /// With what becomes of the product.
    #[must_use]
    pub fn of_output(self, output: Output) -> Self {
        Self { output: output.kind().0, ..self }
    }

    /// With what [`matvec`] is told of its inputs, of the product and of how it goes through the matrix.
    #[must_use]
    pub fn of_matvec(
        self,
        tier: &Tier,
        format: WeightFormat,
        input: Input,
        output: Output,
    ) -> Self {
        let (normed, epsilon) = match input {
            Input::Plain => (0, 0.0),
            Input::Normed { width, epsilon } => (width, epsilon),
        };
        let kernel = MatvecKernel::of(tier, format, (self.rows, self.units));
        let (share_bits, turns) =
            kernel.quants.map_or((0, 1), |quants| (quants.share_bits, quants.turns));
        Self { normed, epsilon, share_bits, turns, ..self.of_output(output) }
    }
}

/// A few tokens at a time, by the kernel that suits the adapter's tier and a matrix of this size, rows and units. A workgroup has
/// several tokens only where all are multiplied by one matrix, and at most [`tokens_at_a_time`]. It is told the rest by
/// [`MatrixParams::of_matvec`].
pub fn matvec(
    tier: &Tier,
    format: WeightFormat,
    size: (u32, u32),
    output: Output,
    (batch, tokens): (Batch<'_>, Tokens),
) -> ShaderSpec {
    let MatvecKernel { file, lanes: (workgroup, team), quants } =
        MatvecKernel::of(tier, format, size);
    let mut spec = output.fill(ShaderSpec::new(file).slot("weights", format.file()));
    if !tier.emulates_lanes() {
        let tokens_at_once = tokens.of_a_workgroup();
        if let Some(quants) = quants {
            spec =
                spec.constant("PORTION", quants.portion((workgroup, team), size.1, tokens_at_once));
        }
        spec = spec
            .slot("count", tokens.file())
            .constant("WORKGROUP", workgroup)
            .constant("LANES", team)
            .constant("TOKENS", tokens_at_once);
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

/// The most tokens that a workgroup of [`matvec`] may have.
pub fn tokens_at_a_time(tier: &Tier) -> u32 {
    tiers::of(tier).matvec_tokens
}

/// The first two dimensions of [`matvec`]'s grid for one token a workgroup; the third counts heads, slots, or is 1.
pub fn matvec_grid(
    tier: &Tier,
    format: WeightFormat,
    (rows, units): (u32, u32),
    tokens: u32,
) -> (u32, u32) {
    (rows.div_ceil(MatvecKernel::of(tier, format, (rows, units)).rows()), tokens)
}

/// The kernel that multiplies many tokens with weights of this format.
fn matmul_kernel(tier: &Tier, format: WeightFormat) -> &'static Matmul {
    // Weights in f32 are few and decide much, such as a router's: f16 would round them.
    if tiers::of(tier).matmul.halves && format == WeightFormat::F32 {
        return &Matmul::PORTABLE;
    }
    &tiers::of(tier).matmul
}

/// Many tokens at a time, by the kernel that suits the adapter's tier. Heads are not multiplied by this one.
pub fn matmul(tier: &Tier, format: WeightFormat, output: Output, batch: Batch<'_>) -> ShaderSpec {
    let file = matmul_kernel(tier, format).file;
    let spec = output.named(output.fill(ShaderSpec::new(file).slot("weights", format.file())));
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
pub fn matmul_grid(tier: &Tier, format: WeightFormat, rows: u32, tokens: u32) -> (u32, u32) {
    let tile = matmul_kernel(tier, format).tile;
    (rows.div_ceil(tile.0), tokens.div_ceil(tile.1))
}

/// By how many sixteens of tokens [`matmul_narrow`] multiplies weights of this format, ascending; by none where the tier has no
/// matrix units, or the format does not become f16.
pub fn narrow_sixteens(tier: &Tier, format: WeightFormat) -> &'static [u32] {
    if multiplies_halves(tier, format) { &[1, 2, 4] } else { &[] }
}

/// The product of [`matmul`] with one matrix of `rows` rows for at most 16 times `sixteens` tokens a workgroup, on matrix units:
/// what few tokens cost there is their weights.
pub fn matmul_narrow(format: WeightFormat, rows: u32, sixteens: u32, output: Output) -> ShaderSpec {
    let row_sixteens = narrow_row_sixteens(rows);
    let quads = match format {
        WeightFormat::Q4_0 | WeightFormat::Q4_1 => "lib/quad_halves_nibbles.wgsl",
        _ => "lib/quad_halves.wgsl",
    };
    let spec = ShaderSpec::new("model/matmul_narrow.wgsl");
    output
        .fill(spec.slot("weights", format.file()).slot("quads", quads))
        .constant("ROW_SIXTEENS", row_sixteens)
        .constant("TOKEN_SIXTEENS", sixteens)
        .constant("INPUTS", 4 * sixteens / row_sixteens)
}

/// The grid of [`matmul_narrow`].
pub fn matmul_narrow_grid(rows: u32, sixteens: u32, tokens: u32) -> (u32, u32) {
    (rows.div_ceil(16 * narrow_row_sixteens(rows)), tokens.div_ceil(16 * sixteens))
}

/// Sixteens of rows that a workgroup of [`matmul_narrow`] makes: more share the inputs that it reads, fewer fill the device.
fn narrow_row_sixteens(rows: u32) -> u32 {
    if rows < 8192 { 2 } else { 4 }
}

/// Whether [`matmul`] takes what [`half_rows`] makes of its inputs, in rows as long as theirs, and needs a
/// [`MatrixParams::weight_shift`].
pub fn multiplies_halves(tier: &Tier, format: WeightFormat) -> bool {
    matmul_kernel(tier, format).halves
}

/// Inputs of products as f16. Grid: (rows).
pub fn half_rows(tier: &Tier) -> ShaderSpec {
    ShaderSpec::new("model/half_rows.wgsl").constant("WORKGROUP", tiers::of(tier).lanes)
}

/// The parameters of [`half_rows`]: `units` of 32 numbers in a row.
pub fn half_rows_params(units: u32, stride: u32) -> RowsParams {
    RowsParams { width: units * 32, stride }
}

/// Workgroups of [`largest_weight`] that fill any device.
pub const LARGEST_WEIGHT_GRID: u32 = 1024;

/// The largest finite magnitude of `units` units. Grid: ([`LARGEST_WEIGHT_GRID`]).
pub fn largest_weight(format: WeightFormat) -> ShaderSpec {
    ShaderSpec::new("model/largest_weight.wgsl").slot("weights", format.file())
}

/// The parameters of [`largest_weight`].
pub fn largest_weight_params(units: u32) -> LargestWeightParams {
    LargestWeightParams { units, lanes: LARGEST_WEIGHT_GRID * 256 }
}

/// The power of two by which weights are divided before they become f16, where the largest of them is this:
/// `f16_shift` in `shaders/lib/f16_scale.wgsl`.
pub fn weight_shift(largest: f32) -> i32 {
    let exponent = (largest.to_bits() >> 23 & 0xff) as i32 - 127;
    exponent.max(-100) - 14
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layers_products_are_one_pipeline() {
        let tier = Tier::named("cooperative").expect("a tier");
        for tokens in [Tokens::One, Tokens::Rows(2), Tokens::Rows(4)] {
            let of =
                |size, output| matvec(tier, WeightFormat::Q4_0, size, output, (Batch::One, tokens));
            let qkv = of((6144, 128), Output::Store);
            assert_eq!(qkv, of((4096, 128), Output::Add));
            assert_eq!(qkv, of((24_576, 128), Output::Glu(Activation::Silu)));
            assert_eq!(qkv, of((4096, 384), Output::Add));
        }
    }

    #[test]
    fn portions_hold_what_all_teams_of_the_same_rows_take_at_a_time() {
        for tier in Tier::all().iter().filter(|tier| !tier.emulates_lanes()) {
            for (rows, units) in
                [(2, 1), (960, 18), (4096, 8), (4096, 128), (2048, 64), (24_576, 384)]
            {
                let kernel = MatvecKernel::of(tier, WeightFormat::Q4_0, (rows, units));
                let Some(quants) = kernel.quants else { continue };
                let at_once = kernel.lanes.1 << quants.share_bits;
                for tokens in (0..3).map(|bits| 1 << bits).filter(|t| *t <= tokens_at_a_time(tier))
                {
                    let portion = quants.portion(kernel.lanes, units, tokens);
                    assert!(
                        portion > 0 && portion.is_multiple_of(at_once),
                        "{} {rows} {units}",
                        tier.name
                    );
                }
            }
        }
    }

    #[test]
    fn quantised_rows_are_shared_where_they_are_few_and_taken_in_turns_where_they_are_many() {
        let of = |tier, size| {
            let tier = Tier::named(tier).expect("a tier");
            let kernel = MatvecKernel::of(tier, WeightFormat::Q4_0, size);
            let Quants { share_bits, turns, .. } = kernel.quants.expect("it is quantised");
            (kernel.lanes.0, 1 << share_bits, turns, size.0.div_ceil(kernel.rows()))
        };
        // Lanes, teams of the same rows, turns, workgroups.
        assert_eq!(of("cooperative", (960, 18)), (64, 1, 1, 120));
        assert_eq!(of("cooperative", (4096, 128)), (512, 2, 1, 128));
        assert_eq!(of("cooperative", (4096, 384)), (512, 2, 1, 128));
        assert_eq!(of("cooperative", (6144, 128)), (512, 1, 1, 96));
        assert_eq!(of("cooperative", (24_576, 128)), (512, 1, 3, 128));
        assert_eq!(of("cooperative", (151_936, 128)), (512, 1, 19, 125));
        // Inputs do not stay in the memory that there is.
        assert_eq!(of("cooperative", (51_200, 160)), (512, 1, 1, 800));
        assert_eq!(of("subgroups-of-32", (4096, 128)), (256, 1, 1, 128));
        assert_eq!(of("subgroups-of-32", (2048, 64)), (256, 2, 1, 128));
        assert_eq!(of("subgroups-of-32", (24_576, 128)), (256, 1, 6, 128));
    }
}
