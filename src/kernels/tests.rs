//! Kernels that no adapter of this machine may run are assembled and validated all the same.

use super::*;
use crate::attention::{IndexFormat, Shape};
use crate::gpu::{ShaderSpec, Tier, assemble};
use crate::model::config::{Experts, Gate};

fn assert_valid(spec: ShaderSpec) {
    let spec = spec.constant("LANES_REVERSED", false);
    assemble(&spec).unwrap_or_else(|e| panic!("{spec:?}: {e}"));
}

#[test]
fn products_on_matrix_units_are_valid_for_every_format_output_and_batch() {
    let tier = Tier::named("cooperative").expect("a tier");
    let experts = Experts {
        count: 8,
        used: 2,
        shared: 1,
        ffn: 64,
        gate: Gate::Softmax,
        normalised: true,
        factor: 1.0,
        layers: vec![true],
    };
    let mut halves = 0;
    for format in WeightFormat::ALL {
        halves += u32::from(multiplies_halves(tier, format));
        for output in [Output::Store, Output::Add, Output::SwiGlu, Output::Gated] {
            for batch in [Batch::One, Batch::ExpertsOut(&experts), Batch::ExpertsIn(&experts)] {
                assert_valid(matmul(tier, format, output, batch));
            }
        }
    }
    assert_eq!(halves, 8, "f32 is not made f16, everything else is");
}

#[test]
fn prefill_on_matrix_units_is_valid_for_every_head_dimension_and_block() {
    let tier = Tier::named("cooperative").expect("a tier");
    for head_dim in [32, 64, 80, 96, 128, 192, 256] {
        for block in [16, 32, 64, 128] {
            let shape = Shape { block, ..Shape::new(2, 4, head_dim, false) };
            let spec = prefill(tier, &shape, shape.row_width());
            assert_eq!(prefill_rounds(tier, &shape), head_dim <= 128);
            assert_valid(spec);
        }
    }
}

/// What every adapter has, and what some back ends add of their own.
const PORTABLE_WORKGROUP_BYTES: u32 = 16_352;

fn assert_fits(shape: &Shape, spec: ShaderSpec) {
    let spec = spec.constant("LANES_REVERSED", false);
    let assembled = assemble(&spec).unwrap_or_else(|e| panic!("{spec:?}: {e}"));
    let bytes = assembled.workgroup_bytes();
    assert!(bytes <= PORTABLE_WORKGROUP_BYTES, "{}: {bytes} bytes for {shape:?}", spec.file);
}

#[test]
fn every_shape_that_is_accepted_fits_the_workgroup_memory_that_every_adapter_has() {
    let tier = Tier::named("portable").expect("a tier");
    let slots = HotSlots { pool_blocks: 100, slots: 10 };
    let channels = [8, 24, 64, 128];
    // Dimensions, blocks and widths of codes in turn, so that few shapes have all pairs of them.
    let sizes = [(128, 64, 4), (256, 128, 8), (576, 16, 2), (192, 32, 4)];
    for group in 1..=32 {
        for (channels, i) in channels.into_iter().zip(group..) {
            let (head_dim, block, bits) = sizes[i as usize % sizes.len()];
            let grouped = Shape::new(2, group, head_dim, false);
            let latent = Shape::latent(group, 512, 64, 256);
            let shape = if head_dim == 576 { latent } else { grouped };
            let shape = Shape { block, index: IndexFormat { channels, bits }, ..shape };
            if shape.validate().is_err() {
                continue;
            }
            for spec in [
                block_score(&shape),
                token_score(&shape),
                bounds_score(&shape),
                exact_block_score(&shape),
                exact_token_score(&shape),
                choose_channels(&shape),
                token_codes(&shape),
                block_bounds(&shape),
                top_k_tokens(tier, &shape),
                dense_split(&shape, Place::Paged),
                sparse_split(&shape, Place::Hot(slots)),
            ] {
                assert_fits(&shape, spec);
            }
        }
    }
}
