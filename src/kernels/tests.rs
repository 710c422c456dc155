//! Kernels that no adapter of this machine may run are assembled and validated all the same.

use super::*;
use crate::attention::Gate;
use crate::attention::{BlockScorer, Divisor, IndexFormat, Shape};
use crate::contract::{Bindings, Field, Kind, Words};
use crate::formats::WeightFormat;
use crate::gpu::{Access, ShaderSpec, Tier, assemble, mismatch};
use std::collections::HashMap;

fn assert_valid(spec: ShaderSpec) {
    let spec = spec.constant("LANES_REVERSED", false);
    assemble(&spec).unwrap_or_else(|e| panic!("{spec:?}: {e}"));
}

#[test]
fn products_on_matrix_units_are_valid_for_every_format_output_and_batch() {
    let tier = Tier::named("cooperative").expect("a tier");
    let experts = variants::experts(Gate::Softmax);
    let mut halves = 0;
    for format in WeightFormat::ALL {
        halves += u32::from(multiplies_halves(tier, format));
        for output in variants::outputs() {
            for batch in [Batch::One, Batch::ExpertsOut(&experts), Batch::ExpertsIn(&experts)] {
                assert_valid(matmul(tier, format, output, batch));
            }
        }
    }
    assert_eq!(halves, 9, "f32 is not made f16, everything else is");
}

#[test]
fn narrow_products_are_valid_for_every_format_output_and_size_and_fit_their_tier() {
    let tier = Tier::named("cooperative").expect("a tier");
    for format in WeightFormat::ALL {
        for output in variants::outputs() {
            for (rows, &sixteens) in [960, 24_576]
                .into_iter()
                .flat_map(|rows| narrow_sixteens(tier, format).iter().map(move |s| (rows, s)))
            {
                let spec = matmul_narrow(format, rows, sixteens, output);
                let spec = spec.constant("LANES_REVERSED", false);
                let assembled = assemble(&spec).unwrap_or_else(|e| panic!("{spec:?}: {e}"));
                assert!(assembled.workgroup_bytes() <= tier.workgroup_bytes, "{rows}");
            }
        }
    }
}

#[test]
fn prefill_on_matrix_units_is_valid_for_every_head_dimension_and_block() {
    let tier = Tier::named("cooperative").expect("a tier");
    for head_dim in [32, 64, 80, 96, 128, 144, 192, 256, 320] {
        for block in [16, 32, 64, 128] {
            let shape = Shape { block, ..Shape::new(2, 4, head_dim, false) };
            let spec = prefill(tier, &shape, shape.row_width());
            assert_eq!(prefill_rounds(tier, &shape), head_dim <= 256);
            assert_valid(spec.clone());
            let assembled = assemble(&spec.constant("LANES_REVERSED", false)).unwrap();
            assert!(assembled.workgroup_bytes() <= tier.workgroup_bytes, "{head_dim}");
        }
    }
}

#[test]
fn latent_splits_on_matrix_units_are_valid_for_every_group_and_fit_their_tier() {
    let tier = Tier::named("cooperative").expect("a tier");
    let slots = HotSlots { pool_blocks: 100, slots: 10 };
    for (group, (latent, rope)) in
        [1, 5, 16, 17, 20, 32].into_iter().zip([(512, 64), (64, 32)].into_iter().cycle())
    {
        let shape = Shape::latent(group, latent, rope, 64);
        assert_eq!((split_workgroups(tier, &shape), split_rounds(tier, &shape)), (1, true));
        for spec in
            [dense_split(tier, &shape, Place::Paged), sparse_split(tier, &shape, Place::Hot(slots))]
        {
            let spec = spec.constant("LANES_REVERSED", false);
            let assembled = assemble(&spec).unwrap_or_else(|e| panic!("{spec:?}: {e}"));
            assert!(assembled.workgroup_bytes() <= tier.workgroup_bytes, "{group}");
        }
    }
}

/// The workgroup memory of every adapter, less what some back ends add of their own.
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
                block_score(tier, &shape),
                token_score(tier, &shape, Divisor::Candidates),
                token_score(tier, &shape, Divisor::Blocks),
                exact_block_score(&shape),
                exact_token_score(&shape),
                choose_channels(&shape),
                token_codes(&shape),
                top_k_tokens(tier, &shape, Divisor::Candidates),
                dense_split(tier, &shape, Place::Paged),
                sparse_split(tier, &shape, Place::Hot(slots)),
            ] {
                assert_fits(&shape, spec);
            }
            for summary in BlockScorer::all().filter_map(BlockScorer::summary) {
                assert_fits(&shape, block_summary(&shape, summary));
                assert_fits(&shape, summary_score(&shape, summary));
            }
        }
    }
}

#[test]
fn every_kernels_bindings_are_those_that_its_shader_declares() {
    let of_tier = |tier| variants::variants(tier, false);
    let all: Vec<variants::Variant> = Tier::all().iter().flat_map(of_tier).collect();
    // Of each optional field of each struct whether some variant has it, and whether some has not.
    let mut seen = HashMap::new();
    for variants::Variant { spec, fields } in &all {
        let bindings = assemble(spec).unwrap_or_else(|e| panic!("{spec:?}: {e}")).bindings();
        assert_eq!(mismatch(fields, &bindings), None, "{spec:?}");
        // As many as every adapter binds at least.
        let storage = bindings.iter().filter(|one| !matches!(one.access, Access::Uniform(_)));
        assert!(storage.count() <= 8, "{spec:?}");
        for field in fields.iter().filter(|field| field.is_optional) {
            let has = bindings.iter().any(|binding| binding.name == field.name);
            let entry: &mut [bool; 2] = seen.entry((fields.as_ptr(), field.name)).or_default();
            entry[usize::from(has)] = true;
        }
    }
    let settled = seen.iter().find(|(_, seen)| **seen != [true; 2]);
    assert_eq!(settled, None, "a field is optional that all variants have, or none");
    // No kernel is forgotten.
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    for folder in ["attend", "index", "kv", "model", "select"] {
        for file in std::fs::read_dir(root.join(folder)).unwrap() {
            let name = format!("{folder}/{}", file.unwrap().file_name().to_string_lossy());
            assert!(all.iter().any(|one| one.spec.file == name), "no variant of {name}");
        }
    }
}

#[test]
fn a_field_that_a_shader_does_not_have_or_has_otherwise_is_told() {
    let bindings = assemble(&arg_max().constant("LANES_REVERSED", false)).unwrap().bindings();
    let fields = <ArgMax<()> as Bindings>::FIELDS.to_vec();
    let with = |change: &dyn Fn(&mut Vec<Field>)| {
        let mut fields = fields.clone();
        change(&mut fields);
        mismatch(&fields, &bindings)
    };
    assert_eq!(with(&|_| {}), None);
    assert_eq!(with(&|fields| fields[2].name = "winner"), Some("the shader has no winner".into()));
    assert_eq!(with(&|fields| fields.truncate(2)), Some("winners is no field".into()));
    let problem = with(&|fields| fields[2].kind = Kind::Read).expect("a problem");
    assert!(problem.starts_with("winners is Write, but"), "{problem}");
    let problem = with(&|fields| fields[1].kind = fields[0].kind).expect("a problem");
    assert!(problem.starts_with("parts is Read, but"), "{problem}");
    // Of other members, of members in another order, and of fewer.
    for members in [RmsNormParams::MEMBERS, StrideParams::MEMBERS, &RowsParams::MEMBERS[..1]] {
        let problem = with(&|fields| fields[0].kind = Kind::Uniform(members)).expect("a problem");
        assert!(problem.starts_with("arg_max is Uniform"), "{problem}");
    }
}
