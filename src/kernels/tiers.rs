//! Which kernels run on a tier of adapters.

use crate::gpu::Tier;

/// The kernels of a tier, where tiers have different ones.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TierKernels {
    // The tier's name.
    tier: &'static str,
    /// The lanes of a kernel that one workgroup a row runs: many where lanes are real, few where they are emulated.
    pub(super) lanes: u32,
    /// The kernel for products with a few tokens.
    pub(super) matvec: &'static str,
    /// The most tokens that a workgroup of it has at a time.
    pub(super) matvec_tokens: u32,
    /// Where quantised weights have a kernel of their own instead: units whose inputs its workgroup memory holds, of all its
    /// tokens.
    pub(super) matvec_quants: Option<u32>,
    /// The kernel for products with many tokens, where it takes the weights' format.
    pub(super) matmul: Matmul,
    /// The kernel for attention of many rows, where it takes the heads' dimensions.
    pub(super) prefill: Prefill,
    /// Lanes of its subgroups, where decode attention and scores shuffle among them.
    pub(super) shuffled: Option<u32>,
    /// How decode attention walks a split of rows that all heads share.
    pub(super) latent_split: LatentSplit,
    /// How the largest are chosen.
    pub(super) top_k: TopK,
}

/// How decode attention walks a split of rows that all heads share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LatentSplit {
    /// Four heads a workgroup.
    Quads,
    /// All heads of a KV head in one workgroup, on matrix units.
    Matrices,
}

/// How a workgroup chooses the largest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TopK {
    /// Its lanes.
    pub(super) lanes: u32,
    /// Loads that a lane begins before it waits for any: more where lanes are real.
    pub(super) at_once: u32,
    /// How its lanes tell each other what they have.
    pub(super) by: TopKBy,
}

/// How the lanes of a workgroup that chooses the largest tell each other what they have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TopKBy {
    /// Through workgroup memory. A loop with barriers leaves where the data says so, or does not: FXC, which has no subgroups,
    /// refuses it.
    Memory { leaves: bool },
    /// In subgroups of so many lanes, which are as many subgroups at most.
    Shuffles {
        subgroup: u32,
        /// Items whose keys workgroup memory holds.
        held: u32,
    },
}

impl TopK {
    const PORTABLE: Self = Self { lanes: 256, at_once: 1, by: TopKBy::Memory { leaves: false } };
    const SUMMED: Self = Self { by: TopKBy::Memory { leaves: true }, ..Self::PORTABLE };
    const SHUFFLED: Self =
        Self { lanes: 256, at_once: 8, by: TopKBy::Shuffles { subgroup: 32, held: 2048 } };
}

/// A kernel for products with many tokens.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Matmul {
    /// The kernel's file.
    pub(super) file: &'static str,
    /// Rows and tokens that a workgroup makes.
    pub(super) tile: (u32, u32),
    /// Whether it multiplies f16, on matrix units: its inputs are then what `half_rows` makes of floats.
    pub(super) halves: bool,
}

impl Matmul {
    /// The kernel that every adapter and format has.
    pub(super) const PORTABLE: Self =
        Self { file: "model/matmul.wgsl", tile: (64, 64), halves: false };
}

/// A kernel for attention of many rows.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Prefill {
    /// The kernel's file.
    pub(super) file: &'static str,
    /// Dimensions that a head has at most.
    pub(super) head_dim: u32,
    /// Whether it multiplies f16, on matrix units.
    pub(super) halves: bool,
}

impl Prefill {
    /// The kernel that every adapter and head dimension has.
    pub(super) const PORTABLE: Self =
        Self { file: "attend/prefill.wgsl", head_dim: u32::MAX, halves: false };
}

const PORTABLE: TierKernels = TierKernels {
    tier: "portable",
    lanes: 256,
    matvec: "model/matvec.wgsl",
    matvec_tokens: 1,
    matvec_quants: None,
    matmul: Matmul::PORTABLE,
    prefill: Prefill::PORTABLE,
    shuffled: None,
    latent_split: LatentSplit::Quads,
    top_k: TopK::PORTABLE,
};

const KERNELS: &[TierKernels] = &[
    TierKernels {
        tier: "subgroups-of-8",
        lanes: 64,
        matvec: "model/matvec_subgroup8.wgsl",
        matvec_tokens: 1,
        matvec_quants: None,
        matmul: Matmul { file: "model/matmul_subgroup8.wgsl", ..Matmul::PORTABLE },
        prefill: Prefill { file: "attend/prefill_subgroup8.wgsl", ..Prefill::PORTABLE },
        shuffled: Some(8),
        latent_split: LatentSplit::Quads,
        top_k: TopK { lanes: 64, ..TopK::SUMMED },
    },
    TierKernels {
        tier: "cooperative",
        // What its workgroup memory holds the inputs of.
        matvec_tokens: 4,
        matvec_quants: Some(512),
        matmul: Matmul { file: "model/matmul_cooperative.wgsl", tile: (128, 128), halves: true },
        prefill: Prefill { file: "attend/prefill_cooperative.wgsl", head_dim: 256, halves: true },
        shuffled: Some(32),
        latent_split: LatentSplit::Matrices,
        top_k: TopK { lanes: 512, at_once: 4, by: TopKBy::Shuffles { subgroup: 32, held: 8192 } },
        ..PORTABLE
    },
    TierKernels {
        tier: "subgroups-of-32",
        matvec_quants: Some(128),
        shuffled: Some(32),
        top_k: TopK::SHUFFLED,
        ..PORTABLE
    },
    TierKernels { tier: "subgroups", top_k: TopK { at_once: 8, ..TopK::SUMMED }, ..PORTABLE },
    PORTABLE,
];

/// The kernels of a tier.
pub(super) fn of(tier: &Tier) -> &'static TierKernels {
    KERNELS.iter().find(|kernels| kernels.tier == tier.name).expect("each tier has a row")
}

/// Whether the tier multiplies f16 on matrix units, so that products of many rows want their inputs as such.
pub fn has_matrix_units(tier: &Tier) -> bool {
    of(tier).matmul.halves
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tier_has_its_kernels_and_each_row_a_tier() {
        assert_eq!(KERNELS.len(), Tier::all().len());
        for tier in Tier::all() {
            assert_eq!(of(tier).tier, tier.name);
        }
    }
}
