//! The header of a safetensors file: which tensors it holds, and where.
//!
//! Read here and not by the safetensors crate, whose sum of offsets can overflow and whose errors do not name the tensor.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::Result;
use crate::formats::TensorType;
use crate::model::gguf::TensorInfo;
use crate::model::json_file::{self, problem, short};

/// Bytes that a header may have; the format's own limit.
const MOST: u64 = 100_000_000;
/// Errors show shapes; convolutions of images and time, which published folders may hold besides, have five.
const MOST_DIMENSIONS: usize = 8;
/// The header's length comes first.
const LENGTH: usize = 8;
/// The one key that is not a tensor.
const METADATA: &str = "__metadata__";

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    /// First byte and the one after the last, from the header's end.
    data_offsets: [u64; 2],
}

/// The tensors of a file in the order of their bytes, which fill what follows the header without gaps or overlap.
pub(super) fn tensors(path: &Path, file: &[u8]) -> Result<Vec<TensorInfo>> {
    let (text, data) = split(file).map_err(|what| problem(path, what))?;
    let entries: BTreeMap<String, &RawValue> = json_file::parse(path, text)?;
    let begin = (file.len() - data) as u64;
    let mut tensors = Vec::new();
    for (name, entry) in entries.into_iter().filter(|(name, _)| name != METADATA) {
        let named = |what: String| problem(path, format!("tensor {}: {what}", short(&name)));
        let Entry { dtype, shape, data_offsets: [first, end] } =
            serde_json::from_str(entry.get()).map_err(|error| named(error.to_string()))?;
        let (kind, size) = kind(&dtype).ok_or_else(|| {
            named(format!("it is stored as {}, but F32, F16 and BF16 can be read", short(&dtype)))
        })?;
        if shape.len() > MOST_DIMENSIONS {
            let count = shape.len();
            return Err(named(format!(
                "it has {count} dimensions, but at most {MOST_DIMENSIONS} are read"
            )));
        }
        let needed = shape.iter().try_fold(size, |bytes, &n| bytes.checked_mul(n));
        if needed.is_none() || needed != end.checked_sub(first) {
            let what =
                format!("bytes {first} to {end} are not what {dtype} of shape {shape:?} takes");
            return Err(named(what));
        }
        if end > data as u64 {
            let what = format!(
                "it ends at byte {end} of the data, but the file has {data}: is it cut short?"
            );
            return Err(named(what));
        }
        tensors.push(TensorInfo {
            name,
            shape: shape.into_iter().rev().collect(),
            kind,
            offset: begin + first,
            bytes: end - first,
        });
    }
    tensors.sort_by_key(|tensor| (tensor.offset, tensor.bytes));
    let mut end = begin;
    for TensorInfo { name, offset, bytes, .. } in &tensors {
        if *offset != end {
            let [first, last] = [offset, &end].map(|place| place - begin);
            let what = format!(
                "tensor {} begins at byte {first} of the data, but what precedes it ends at {last}",
                short(name)
            );
            return Err(problem(path, what));
        }
        end = offset + bytes;
    }
    if end < file.len() as u64 {
        let what = format!("{} bytes follow the last tensor", file.len() as u64 - end);
        return Err(problem(path, what));
    }
    Ok(tensors)
}

// The header, and how many bytes follow it.
fn split(file: &[u8]) -> std::result::Result<(&str, usize), String> {
    let (length, rest) = file
        .split_first_chunk::<LENGTH>()
        .ok_or_else(|| format!("it has {} bytes, but even a header's length has 8", file.len()))?;
    let length = u64::from_le_bytes(*length);
    if length > MOST {
        return Err(format!("the header has {length} bytes, but at most {MOST} are allowed"));
    }
    let header = rest.get(..length as usize).ok_or_else(|| {
        format!("the header has {length} bytes, but only {} follow its length", rest.len())
    })?;
    let text =
        str::from_utf8(header).map_err(|error| format!("the header is not UTF-8: {error}"))?;
    Ok((text, rest.len() - header.len()))
}

// A type by its name, and its bytes.
fn kind(dtype: &str) -> Option<(TensorType, u64)> {
    match dtype {
        "F32" => Some((TensorType::F32, 4)),
        "F16" => Some((TensorType::F16, 2)),
        "BF16" => Some((TensorType::BF16, 2)),
        _ => None,
    }
}
