//! Quantisation against PyPI `gguf`, bit for bit.

use std::error::Error;

use crate::common::hex::unhex;
use asynctls::formats::Quantise;
use asynctls::formats::dequantise;
use serde_json::Value;

#[test]
fn rows_become_the_golden_blocks() -> Result<(), Box<dyn Error>> {
    let golden: Value = serde_json::from_str(include_str!("../goldens/quantise.json"))?;
    let weights = unhex(&golden["weights"])?;
    let weights: Vec<f32> =
        weights.as_chunks().0.iter().map(|bits| f32::from_le_bytes(*bits)).collect();
    assert!(!weights.is_empty());
    for to in Quantise::ALL {
        let mut blocks = Vec::new();
        to.row(&weights, &mut blocks)?;
        let block_bytes = to.kind().block().ok_or("no block")?.bytes as usize;
        let expected = unhex(&golden[to.kind().to_string()])?;
        assert_eq!(blocks.len(), expected.len(), "{to}");
        for (i, (found, expected)) in
            blocks.chunks(block_bytes).zip(expected.chunks(block_bytes)).enumerate()
        {
            assert_eq!(found, expected, "{to} block {i} of {:?}", &weights[32 * i..][..32]);
        }
    }
    Ok(())
}

#[test]
fn rows_are_padded_with_zeros_to_whole_blocks() -> Result<(), Box<dyn Error>> {
    let row: Vec<f32> = (0..45).map(|i| i as f32 - 20.0).collect();
    let mut whole = row.clone();
    whole.resize(64, 0.0);
    for to in Quantise::ALL {
        let (mut short, mut padded) = (vec![7], vec![7]);
        to.row(&row, &mut short)?;
        to.row(&whole, &mut padded)?;
        assert_eq!(short, padded, "{to}");
        assert!(dequantise(to.kind(), &short[1..])?[45..].iter().all(|w| *w == 0.0));
    }
    Ok(())
}

#[test]
fn weights_without_a_finite_reciprocal_become_zeros() -> Result<(), Box<dyn Error>> {
    let mut row = [0.0; 32];
    row[3] = -1e-40;
    for to in Quantise::ALL {
        let mut blocks = Vec::new();
        to.row(&row, &mut blocks)?;
        assert!(dequantise(to.kind(), &blocks)?.iter().all(|w| *w == 0.0), "{to}");
    }
    Ok(())
}

#[test]
fn what_no_block_can_hold_is_refused_with_its_place() {
    for (to, most) in [(Quantise::Q8_0, 65504.0 * 127.0), (Quantise::Q4_0, 65504.0 * 8.0)] {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1.01 * most] {
            for (length, at) in [(64, 35), (40, 39)] {
                let mut row = vec![1.0; length];
                row[at] = most;
                to.row(&row, &mut Vec::new()).unwrap();
                row[at] = bad;
                let error = to.row(&row, &mut Vec::new()).unwrap_err().to_string();
                assert!(error.contains(&format!("weight {at} of a row is {bad}")), "{error}");
                assert!(error.contains(&format!("up to {most}")), "{error}");
                assert!(error.ends_with(&to.to_string()), "{error}");
            }
        }
    }
}

#[test]
fn names_parse_back_and_others_are_refused() {
    for to in Quantise::ALL {
        assert_eq!(to.to_string().parse::<Quantise>().unwrap(), to);
    }
    let error = "q4_k".parse::<Quantise>().unwrap_err().to_string();
    assert_eq!(error, "the type to quantise to is q4_k, but it must be q8_0 or q4_0");
}
