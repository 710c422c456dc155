//! What is read from sound files.

use std::path::Path;

use asynctls::Error;
use asynctls::formats::{Block, TensorType};
use asynctls::model::{Array, Gguf, Value};

use super::{Outcome, check_tensors, open, small};
use crate::common::gguf_builder::GgufBuilder;

pub fn every_value() -> Vec<(&'static str, Value)> {
    vec![
        ("u8", Value::U8(u8::MAX)),
        ("i8", Value::I8(i8::MIN)),
        ("u16", Value::U16(u16::MAX)),
        ("i16", Value::I16(i16::MIN)),
        ("u32", Value::U32(u32::MAX)),
        ("i32", Value::I32(i32::MIN)),
        ("f32", Value::F32(-1.5)),
        ("bool", Value::Bool(true)),
        ("string", Value::String("snow \u{2603}\0 and \n more".into())),
        ("u64", Value::U64(u64::MAX)),
        ("i64", Value::I64(i64::MIN)),
        ("f64", Value::F64(1e300)),
        ("u8s", Value::Array(Array::U8(vec![0, 255]))),
        ("i8s", Value::Array(Array::I8(vec![-128, 127]))),
        ("u16s", Value::Array(Array::U16(vec![0, u16::MAX]))),
        ("i16s", Value::Array(Array::I16(vec![i16::MIN, 7]))),
        ("u32s", Value::Array(Array::U32(vec![1, u32::MAX]))),
        ("i32s", Value::Array(Array::I32(vec![i32::MIN, 1]))),
        ("f32s", Value::Array(Array::F32(vec![0.5, f32::MAX]))),
        ("bools", Value::Array(Array::Bool(vec![false, true]))),
        ("strings", Value::Array(Array::String(vec![String::new(), "Ġthe".into()]))),
        ("u64s", Value::Array(Array::U64(vec![u64::MAX]))),
        ("i64s", Value::Array(Array::I64(vec![i64::MIN, 3]))),
        ("f64s", Value::Array(Array::F64(vec![-0.25]))),
        ("none", Value::Array(Array::String(Vec::new()))),
    ]
}

#[test]
fn every_value_type_round_trips_in_both_versions() -> Outcome {
    for version in [2, 3] {
        let values = every_value();
        let builder = values
            .iter()
            .fold(GgufBuilder::new(version), |builder, (key, value)| builder.value(key, value));
        let file = open(&builder.build())?;
        assert_eq!(file.version(), version);
        assert_eq!(file.path(), Path::new("some.gguf"));
        assert_eq!(file.file_size(), builder.build().len() as u64);
        let found: Vec<_> = file.metadata().map(|(key, value)| (key, value.clone())).collect();
        assert_eq!(found, values);
        assert_eq!(file.value("absent"), None);
    }
    Ok(())
}

#[test]
fn every_tensor_type_round_trips() -> Outcome {
    let kinds = [
        (TensorType::F32, "F32", 1, 4),
        (TensorType::F16, "F16", 1, 2),
        (TensorType::BF16, "BF16", 1, 2),
        (TensorType::Q8_0, "Q8_0", 32, 34),
        (TensorType::Q4_0, "Q4_0", 32, 18),
        (TensorType::Q4_1, "Q4_1", 32, 20),
        (TensorType::Q5_0, "Q5_0", 32, 22),
        (TensorType::Q5_1, "Q5_1", 32, 24),
        (TensorType::Q4K, "Q4_K", 256, 144),
        (TensorType::Q5K, "Q5_K", 256, 176),
        (TensorType::Q6K, "Q6_K", 256, 210),
        (TensorType::Other(10), "Q2_K", 256, 84),
        (TensorType::Other(27), "I64", 1, 8),
    ];
    for version in [2, 3] {
        for alignment in [1, 2, 8, 32, 4096] {
            let mut builder = GgufBuilder::new(version).alignment(alignment);
            for (number, (kind, name, weights, bytes)) in (1..).zip(kinds) {
                assert_eq!(TensorType::from_id(kind.id()), kind);
                assert_eq!(kind.name(), Some(name));
                assert_eq!(kind.block(), Some(Block { weights, bytes }));
                let stored = vec![number; 6 * bytes as usize];
                builder = builder.tensor(name, &[2 * weights, 3], kind.id(), &stored);
            }
            let file = open(&builder.build())?;
            assert_eq!(file.tensors().len(), kinds.len());
            for (number, (kind, name, weights, bytes)) in (1..).zip(kinds) {
                let tensor = file.tensor(name).ok_or(name)?;
                assert_eq!((tensor.kind, &tensor.shape), (kind, &vec![2 * weights, 3]));
                assert_eq!(tensor.offset % u64::from(alignment), 0);
                assert_eq!(file.bytes(tensor), vec![number; 6 * bytes as usize]);
            }
        }
    }
    Ok(())
}

#[test]
fn tensors_without_dimensions_or_weights_are_listed() -> Outcome {
    let file = open(
        &GgufBuilder::new(3)
            .tensor("scalar", &[], 0, &[1, 2, 3, 4])
            .tensor("none", &[0, 5], 12, &[])
            .tensor("four", &[1, 2, 3, 1], 1, &[9; 12])
            .build(),
    )?;
    let bytes = |name| file.tensor(name).map(|tensor| file.bytes(tensor));
    assert_eq!(bytes("scalar"), Some([1, 2, 3, 4].as_slice()));
    assert_eq!(bytes("none"), Some([].as_slice()));
    assert_eq!(bytes("four"), Some([9; 12].as_slice()));
    assert_eq!(bytes("absent"), None);
    Ok(())
}

#[test]
fn a_tensor_of_an_unknown_type_is_listed_without_bytes() -> Outcome {
    let file = open(
        &GgufBuilder::new(3)
            .tensor("strange", &[5, 7], 4711, &[0; 64])
            .tensor("plain", &[2], 0, &[1; 8])
            .build(),
    )?;
    let strange = file.tensor("strange").ok_or("not listed")?;
    assert_eq!((strange.kind, strange.bytes), (TensorType::Other(4711), 0));
    assert_eq!((strange.kind.name(), strange.kind.block()), (None, None));
    assert_eq!(strange.kind.to_string(), "unknown type 4711");
    let plain = file.tensor("plain").ok_or("not listed")?;
    assert_eq!(file.bytes(plain), [1; 8]);
    Ok(())
}

#[test]
fn bytes_of_another_files_tensor_are_empty_where_they_lie_outside() -> Outcome {
    let (long, short) = (open(&small().build())?, open(&GgufBuilder::new(3).build())?);
    assert!(long.tensors().iter().all(|tensor| short.bytes(tensor).is_empty()));
    Ok(())
}

#[test]
fn tensors_may_be_listed_in_another_order_than_they_lie() -> Outcome {
    let file = open(
        &GgufBuilder::new(3)
            .raw_tensor(b"late", &[8], 0, &[7; 32], Some(32))
            .raw_tensor(b"early", &[8], 0, &[8; 32], Some(0))
            .build(),
    )?;
    assert_eq!(file.tensors()[0].name, "late");
    assert_eq!(file.bytes(&file.tensors()[1]), [7; 32]);
    Ok(())
}

#[test]
fn getters_read_their_type() -> Outcome {
    let file = open(
        &small()
            .f32s("scores", &[0.5, -1.0])
            .value("byte", &Value::U8(200))
            .value("wide", &Value::I64(4_294_967_295))
            .value("unsigned", &Value::Array(Array::U64(vec![3, 2_147_483_647])))
            .value("bytes", &Value::Array(Array::I8(vec![-1])))
            .build(),
    )?;
    assert_eq!(file.str("general.architecture")?, "llama");
    assert_eq!(file.u32("llama.block_count")?, 2);
    assert_eq!(file.f32("llama.eps")?, 1e-5);
    assert!(file.bool("flag")?);
    assert_eq!(file.strings("tokens")?, ["a", "", "é"]);
    assert_eq!(*file.i32s("types")?, [1, -2]);
    assert_eq!(file.f32s("scores")?, [0.5, -1.0]);
    assert_eq!(file.u32("byte")?, 200);
    assert_eq!(file.u32("wide")?, u32::MAX);
    assert_eq!(*file.i32s("unsigned")?, [3, i32::MAX]);
    assert_eq!(*file.i32s("bytes")?, [-1]);
    assert_eq!(file.opt_str("general.architecture")?, Some("llama"));
    assert_eq!(file.opt_u32("llama.block_count")?, Some(2));
    Ok(())
}

#[test]
fn absent_keys_are_none_or_errors_that_name_them() -> Outcome {
    let file = open(&small().build())?;
    assert_eq!(file.opt_u32("no")?, None);
    assert_eq!(file.opt_f32("no")?, None);
    assert_eq!(file.opt_bool("no")?, None);
    assert_eq!(file.opt_str("no")?, None);
    assert_eq!(file.opt_strings("no")?, None);
    assert_eq!(file.opt_i32s("no")?, None);
    assert_eq!(file.opt_f32s("no")?, None);
    let errors = [
        (file.u32("no").err(), "integer from 0 to 4294967295"),
        (file.f32("no").err(), "an f32"),
        (file.bool("no").err(), "a bool"),
        (file.str("no").err(), "a string"),
        (file.strings("no").err(), "an array of strings"),
        (file.i32s("no").err(), "an array of integers"),
        (file.f32s("no").err(), "an array of f32"),
    ];
    for (error, needed) in errors {
        let Some(Error::Model(text)) = error else { panic!("{error:?}") };
        for part in ["some.gguf", "\"no\"", "absent", needed] {
            assert!(text.contains(part), "{text:?} lacks {part:?}");
        }
    }
    Ok(())
}

#[test]
fn values_of_another_type_are_errors_that_name_both() -> Outcome {
    let file = open(
        &small()
            .value("large", &Value::U64(1 << 32))
            .value("negative", &Value::I8(-1))
            .value("double", &Value::F64(0.5))
            .value("large ones", &Value::Array(Array::U32(vec![1, u32::MAX])))
            .build(),
    )?;
    let errors = [
        (file.u32("large").err(), "\"large\"", "the u64 4294967296"),
        (file.u32("negative").err(), "\"negative\"", "the i8 -1"),
        (file.opt_u32("llama.eps").err(), "\"llama.eps\"", "the f32 0.00001"),
        (file.f32("double").err(), "\"double\"", "the f64 0.5"),
        (file.f32("llama.block_count").err(), "\"llama.block_count\"", "the u32 2"),
        (file.str("flag").err(), "\"flag\"", "the bool true"),
        (file.bool("general.architecture").err(), "\"general", "the string \"llama\""),
        (file.strings("types").err(), "\"types\"", "an array of 2 i32"),
        (file.i32s("large ones").err(), "\"large ones\"", "an array of 2 u32"),
        (file.opt_f32s("tokens").err(), "\"tokens\"", "an array of 3 string"),
    ];
    for (error, key, found) in errors {
        let Some(Error::Model(text)) = error else { panic!("{error:?}") };
        assert!(text.contains(key) && text.contains(found), "{text}");
    }
    Ok(())
}

#[test]
fn a_file_on_disk_is_mapped() -> Outcome {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("model.gguf");
    std::fs::write(&path, small().build())?;
    let file = Gguf::open(&path)?;
    check_tensors(&file);
    assert_eq!(file.path(), path);
    assert_eq!(file.tensor("second").map(|tensor| file.bytes(tensor)), Some([2; 12].as_slice()));
    assert!(format!("{file:?}").contains("model.gguf"));
    Ok(())
}
