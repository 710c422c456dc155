//! Kernels that no adapter of this machine may run are assembled and validated all the same.

use super::*;
use crate::attention::Shape;
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
        for output in [Output::Store, Output::Add, Output::SwiGlu] {
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
