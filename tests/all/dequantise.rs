//! Dequantisation against the format's reference implementation, bit for bit.

use std::error::Error;

use crate::common::hex::unhex;
use asynctls::formats::TensorType;
use asynctls::formats::dequantise;
use serde_json::Value;

#[test]
fn every_supported_type_matches_its_golden_weights() -> Result<(), Box<dyn Error>> {
    let golden: Value = serde_json::from_str(include_str!("../goldens/dequantize.json"))?;
    for kind in TensorType::SUPPORTED {
        let case = &golden["cases"][kind.to_string()];
        let stored = unhex(&case["bytes"])?;
        let expected = unhex(&case["weights"])?;
        let expected: Vec<u32> =
            expected.as_chunks().0.iter().map(|bits| u32::from_le_bytes(*bits)).collect();
        let found: Vec<u32> = dequantise(kind, &stored)?.into_iter().map(f32::to_bits).collect();
        assert!(!expected.is_empty());
        assert_eq!(found, expected, "{kind}");
    }
    Ok(())
}

#[test]
fn no_bytes_are_no_weights() -> Result<(), Box<dyn Error>> {
    assert!(dequantise(TensorType::Q4_1, &[])?.is_empty());
    Ok(())
}

#[test]
fn a_partial_block_is_an_error() {
    for kind in TensorType::SUPPORTED {
        let block = kind.block().unwrap().bytes as usize;
        let error = dequantise(kind, &vec![0; 2 * block - 1]).unwrap_err().to_string();
        assert!(error.contains(&kind.to_string()), "{error}");
        assert!(error.contains(&format!("{} bytes", 2 * block - 1)), "{error}");
        assert!(error.contains(&format!("blocks of {block} bytes")), "{error}");
    }
}

#[test]
fn other_types_are_errors_that_name_the_type_and_those_supported() {
    for (kind, name) in [
        (TensorType::Other(10), "Q2_K"),
        (TensorType::Other(20), "IQ4_NL"),
        (TensorType::Other(999), "unknown type 999"),
    ] {
        let error = dequantise(kind, &[]).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
        assert!(
            error.contains("F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K and Q6_K"),
            "{error}"
        );
    }
}
