//! Broken files, each refused with a message that names what is broken.

use std::path::Path;

use asynctls::Error;
use asynctls::model::{Array, Gguf, Value};

use super::{Outcome, open, refused, small};
use crate::common::gguf_builder::{GgufBuilder, raw_array, string};

#[test]
fn what_is_not_a_readable_file_is_an_error_that_names_it() -> Outcome {
    let directory = tempfile::tempdir()?;
    let text = |path: &Path| Gguf::open(path).map(|_| ()).unwrap_err().to_string();

    let name = directory.path().display().to_string();
    let error = text(directory.path());
    assert!(error.contains(&name) && error.contains("a directory"), "{error}");

    let absent = directory.path().join("absent.gguf");
    assert!(matches!(Gguf::open(&absent), Err(Error::Io { .. })));
    assert!(text(&absent).contains("absent.gguf"));

    let empty = directory.path().join("empty.gguf");
    std::fs::write(&empty, [])?;
    let error = text(&empty);
    assert!(error.contains("empty.gguf") && error.contains("the file is empty"), "{error}");
    Ok(())
}

#[cfg(unix)]
#[test]
fn a_device_is_refused_before_it_is_read() {
    let error = Gguf::open(Path::new("/dev/zero")).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("/dev/zero") && error.contains("a device"), "{error}");
}

#[test]
fn other_formats_versions_and_byte_orders_are_refused() {
    refused(b"", &["the file is empty"]);
    refused(b"GG", &["the magic number takes 4 bytes", "only 2 are left"]);
    refused(&small().magic(*b"PK\x03\x04").build(), &["magic number", r"PK\x03\x04", "GGUF"]);
    refused(&small().magic(*b"FUGG").build(), &["magic number", "FUGG"]);
    refused(&GgufBuilder::new(0).build(), &["the version is 0", "2 and 3"]);
    refused(&GgufBuilder::new(1).build(), &["the version is 1", "2 and 3"]);
    refused(&GgufBuilder::new(4).build(), &["the version is 4", "2 and 3"]);
    refused(&GgufBuilder::new(3 << 24).build(), &["big-endian", "version 3"]);
    refused(&GgufBuilder::new(2 << 24).build(), &["big-endian", "version 2"]);
}

#[test]
fn counts_beyond_the_file_are_refused() {
    for count in [9, 1 << 20, 1 << 32, i64::MAX as u64, u64::MAX] {
        let number = count.to_string();
        let file = GgufBuilder::new(3).u32("k", 1);
        refused(
            &file.clone().metadata_count(count).build(),
            &["the metadata count", &number, "bytes left hold at most"],
        );
        refused(
            &file.clone().tensor_count(count).build(),
            &["the tensor count", &number, "bytes left hold at most"],
        );
        for tag in (0..=12).filter(|tag| *tag != 9) {
            let array = raw_array(tag, count);
            refused(
                &GgufBuilder::new(3).raw_value("the.key", 9, &array).build(),
                &["the length of the array", "\"the.key\"", &number, "at most 0"],
            );
        }
        let length = count.to_le_bytes();
        refused(
            &GgufBuilder::new(3).raw_value("the.key", 8, &length).build(),
            &["the length of the value", "\"the.key\"", &number, "at most 0"],
        );
        refused(
            &GgufBuilder::new(3).raw_pair(&[&length[..], &[0; 8]].concat()).build(),
            &["the length of metadata key 0", &number, "at most 8"],
        );
    }
    // Counts that the bytes could hold: a tensor's entry is then taken for a key, or padding for a tensor without a name.
    refused(&small().metadata_count(7).build(), &["the length of the name of tensor 0"]);
    refused(&small().tensor_count(3).build(), &["tensor \"\" begins"]);
}

#[test]
fn broken_metadata_is_refused() {
    let new = || GgufBuilder::new(3);
    refused(&new().u32("twice", 1).f32("twice", 2.0).build(), &["\"twice\"", "appears twice"]);
    refused(&new().raw_value("odd", 13, &[0; 8]).build(), &["\"odd\"", "is 13", "0 to 12"]);
    refused(&new().raw_value("odd", u32::MAX, &[0; 8]).build(), &["\"odd\"", "4294967295"]);
    refused(&new().raw_value("truth", 7, &[2]).build(), &["\"truth\"", "is 2", "0 or 1"]);
    let bools = [raw_array(7, 2), vec![1, 255]].concat();
    refused(&new().raw_value("truths", 9, &bools).build(), &["element 1", "\"truths\"", "255"]);
    let nested = [raw_array(9, 1), raw_array(4, 0)].concat();
    refused(&new().raw_value("deep", 9, &nested).build(), &["\"deep\"", "holds arrays"]);
    let unknown = [raw_array(99, 1), vec![0; 8]].concat();
    refused(&new().raw_value("odd", 9, &unknown).build(), &["element type", "\"odd\"", "is 99"]);
    refused(
        &new().raw_value("text", 8, &string(b"ab\xff")).build(),
        &["\"text\"", "not UTF-8 after its first 2 bytes"],
    );
    let tokens = [raw_array(8, 2), string(b"fine"), string(b"\xc3")].concat();
    refused(&new().raw_value("tokens", 9, &tokens).build(), &["element 1", "\"tokens\"", "UTF-8"]);
    let pair = [string(b"bad\x80"), vec![0, 0, 0, 0, 1]].concat();
    refused(&new().raw_pair(&pair).build(), &["metadata key 0", "not UTF-8"]);
}

#[test]
fn long_names_are_cut_or_refused() -> Outcome {
    let longest = "k".repeat(65_535);
    let file =
        open(&GgufBuilder::new(3).u32(&longest, 7).tensor(&longest, &[], 0, &[0; 4]).build())?;
    assert_eq!(file.u32(&longest)?, 7);
    let longer = "k".repeat(65_536);
    refused(&GgufBuilder::new(3).u32(&longer, 7).build(), &["metadata key 0", "65536", "65535"]);
    refused(
        &GgufBuilder::new(3).tensor(&longer, &[], 0, &[0; 4]).build(),
        &["the name of tensor 0", "65536", "65535"],
    );
    refused(&GgufBuilder::new(3).u32(&longest, 1).u32(&longest, 2).build(), &["kkk\"...", "twice"]);
    let hostile = "\u{1b}[2J\n".repeat(100);
    refused(&GgufBuilder::new(3).raw_value(&hostile, 13, &[0; 8]).build(), &[r"\u{1b}[2J\n"]);
    Ok(())
}

#[test]
fn broken_alignments_are_refused() {
    let refuse = |value: Value, text: &str| {
        refused(
            &GgufBuilder::new(3).value("general.alignment", &value).build(),
            &["general.alignment", text, "a power of two"],
        );
    };
    refuse(Value::U32(0), "the u32 0");
    refuse(Value::U32(24), "the u32 24");
    refuse(Value::U64(1 << 32), "the u64 4294967296");
    refuse(Value::I32(-32), "the i32 -32");
    refuse(Value::String("32".into()), "the string \"32\"");
    refuse(Value::Array(Array::U32(vec![32])), "an array of 1 u32");
}

#[test]
fn an_alignment_larger_than_the_file_matters_only_to_tensors() -> Outcome {
    let file = GgufBuilder::new(3).u32("general.alignment", 1 << 31);
    open(&file.build())?;
    refused(
        &file.tensor("x", &[1], 0, &[0; 4]).build(),
        &["\"x\"", "begins at byte 2147483648", "the file ends at byte"],
    );
    Ok(())
}

#[test]
fn broken_tensors_are_refused() {
    let one = |shape: &[u64], kind, offset| {
        GgufBuilder::new(3).raw_tensor(b"it", shape, kind, &[0; 64], Some(offset)).build()
    };
    refused(&one(&[1; 5], 0, 0), &["\"it\"", "5 dimensions", "at most 4"]);
    refused(&one(&[33], 8, 0), &["\"it\"", "Q8_0", "[33]", "multiples of 32"]);
    refused(&one(&[128, 2], 12, 0), &["\"it\"", "Q4_K", "[128, 2]", "multiples of 256"]);
    refused(&one(&[], 2, 0), &["\"it\"", "Q4_0", "[]", "multiples of 32"]);
    refused(&one(&[1 << 32, 1 << 32], 0, 0), &["\"it\"", "[4294967296, 4294967296]", "64 bits"]);
    refused(&one(&[u64::MAX, 2], 4711, 0), &["\"it\"", "unknown type 4711", "64 bits"]);
    refused(&one(&[1 << 62], 0, 0), &["\"it\"", "64 bits"]);
    refused(&one(&[1], 0, 33), &["\"it\"", "offset 33", "alignment, 32"]);
    refused(&one(&[17], 0, 0), &["\"it\"", "[17]", "68 bytes", "the file ends at byte"]);
    refused(&one(&[16], 0, 32), &["\"it\"", "64 bytes at offset 32", "the file ends at byte"]);
    refused(&one(&[1], 0, 96), &["\"it\"", "offset 96", "the file ends at byte"]);
    refused(&one(&[0], 0, 96), &["\"it\"", "0 bytes at offset 96", "the file ends at byte"]);
    refused(&one(&[1], 4711, 96), &["\"it\"", "unknown type 4711", "the file ends at byte"]);
    let most = u64::MAX - 31;
    refused(&one(&[1], 0, most), &["\"it\"", &most.to_string(), "the file ends at byte"]);
    refused(&one(&[1 << 61], 1, most), &["\"it\"", &most.to_string()]);
    refused(
        &GgufBuilder::new(3).raw_tensor(b"\xfe", &[1], 0, &[0; 4], None).build(),
        &["the name of tensor 0", "not UTF-8"],
    );
    refused(
        &small().tensor("first", &[1], 0, &[0; 4]).build(),
        &["tensor \"first\"", "appears twice"],
    );
}

#[test]
fn overlapping_tensors_are_refused() {
    let file = |offset| {
        GgufBuilder::new(3)
            .raw_tensor(b"wide", &[24], 0, &[0; 96], Some(0))
            .raw_tensor(b"narrow", &[8], 0, &[0; 32], Some(offset))
            .build()
    };
    for offset in [0, 32, 64] {
        refused(&file(offset), &["tensor \"narrow\" begins", "tensor \"wide\" ends"]);
    }
    assert!(open(&file(96)).is_ok());
    // The overlapping pair are not neighbours in the list.
    let apart = GgufBuilder::new(3)
        .raw_tensor(b"a", &[16], 0, &[0; 64], Some(64))
        .raw_tensor(b"b", &[8], 0, &[0; 32], Some(0))
        .raw_tensor(b"c", &[8], 0, &[0; 32], Some(96))
        .build();
    refused(&apart, &["tensor \"c\" begins", "tensor \"a\" ends"]);
}

#[test]
fn many_tensors_are_checked_quickly() {
    // Every tensor at the same place: comparing all pairs of them would take minutes.
    let count = 30_000;
    let file = (0..count).fold(GgufBuilder::new(3), |file, number| {
        file.raw_tensor(number.to_string().as_bytes(), &[1], 0, &[], Some(0))
    });
    let mut bytes = file.build();
    bytes.resize(bytes.len() + 64, 0);
    refused(&bytes, &["tensor \"1\" begins", "tensor \"0\" ends"]);

    let file = (0..count).fold(GgufBuilder::new(3), |file, number: u64| {
        file.raw_tensor(number.to_string().as_bytes(), &[1], 24, &[], Some(32 * number))
    });
    let mut bytes = file.build();
    bytes.resize(bytes.len() + 32 * count as usize + 32, 0);
    assert!(open(&bytes).is_ok());
}

#[test]
fn a_file_of_the_smallest_things_takes_little_memory() -> Outcome {
    let count = 100_000;
    let strings = [raw_array(8, count), vec![0; 8 * count as usize]].concat();
    let file = open(&GgufBuilder::new(3).raw_value("empty", 9, &strings).build())?;
    assert_eq!(file.strings("empty")?.len(), count as usize);

    let file = (0..20_000).fold(GgufBuilder::new(3), |file, number: u32| {
        file.raw_value(&format!("{number:x}"), 0, &[0])
    });
    assert_eq!(open(&file.build())?.metadata().count(), 20_000);
    Ok(())
}
