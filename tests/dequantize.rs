//! Dequantisation against the format's reference implementation, bit for bit.

use std::error::Error;

use asynctls::model::gguf::TensorType;
use asynctls::reference::dequantize::dequantize;
use serde_json::Value;

fn unhex(text: &Value) -> Result<Vec<u8>, Box<dyn Error>> {
    let digits = text.as_str().ok_or("not a string")?.as_bytes();
    let byte = |pair: &[u8; 2]| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?);
    digits.as_chunks().0.iter().map(byte).collect()
}

#[test]
fn every_supported_type_matches_its_golden_weights() -> Result<(), Box<dyn Error>> {
    let golden: Value = serde_json::from_str(include_str!("goldens/dequantize.json"))?;
    for kind in [
        TensorType::F32,
        TensorType::F16,
        TensorType::BF16,
        TensorType::Q8_0,
        TensorType::Q4_0,
        TensorType::Q4_1,
    ] {
        let case = &golden["cases"][kind.to_string()];
        let stored = unhex(&case["bytes"])?;
        let expected = unhex(&case["weights"])?;
        let expected: Vec<u32> =
            expected.as_chunks().0.iter().map(|bits| u32::from_le_bytes(*bits)).collect();
        let found: Vec<u32> = dequantize(kind, &stored)?.into_iter().map(f32::to_bits).collect();
        assert!(!expected.is_empty());
        assert_eq!(found, expected, "{kind}");
    }
    Ok(())
}

#[test]
fn no_bytes_are_no_weights() -> Result<(), Box<dyn Error>> {
    assert!(dequantize(TensorType::Q4_1, &[])?.is_empty());
    Ok(())
}

#[test]
fn a_partial_block_is_an_error() {
    for (kind, block) in
        [(TensorType::F32, 4), (TensorType::F16, 2), (TensorType::BF16, 2), (TensorType::Q8_0, 34)]
    {
        let error = dequantize(kind, &vec![0; 2 * block - 1]).unwrap_err().to_string();
        assert!(error.contains(&kind.to_string()), "{error}");
        assert!(error.contains(&format!("{} bytes", 2 * block - 1)), "{error}");
        assert!(error.contains(&format!("blocks of {block} bytes")), "{error}");
    }
}

#[test]
fn other_types_are_errors_that_name_the_type_and_those_supported() {
    for (kind, name) in [
        (TensorType::Q5_0, "Q5_0"),
        (TensorType::Q5_1, "Q5_1"),
        (TensorType::Q4K, "Q4_K"),
        (TensorType::Q5K, "Q5_K"),
        (TensorType::Q6K, "Q6_K"),
        (TensorType::Other(20), "IQ4_NL"),
        (TensorType::Other(999), "unknown type 999"),
    ] {
        let error = dequantize(kind, &[]).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
        assert!(error.contains("F32, F16, BF16, Q8_0, Q4_0 and Q4_1"), "{error}");
    }
}
