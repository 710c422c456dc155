//! Bytes in hexadecimal, as goldens hold them.

use std::error::Error;

use serde_json::Value;

pub fn unhex(text: &Value) -> Result<Vec<u8>, Box<dyn Error>> {
    let digits = text.as_str().ok_or("not a string")?.as_bytes();
    let byte = |pair: &[u8; 2]| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?);
    digits.as_chunks().0.iter().map(byte).collect()
}
