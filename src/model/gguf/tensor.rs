//! The list of tensors and where their bytes lie.

use super::cursor::{Cursor, Quoted};
use crate::formats::TensorType;
use crate::{Error, Result};

/// The format's limit on dimensions.
const MOST_DIMENSIONS: u32 = 4;

/// The fewest bytes that describe a tensor: an empty name, no dimensions, a type and an offset.
pub(super) const LEAST_ENTRY: usize = 8 + 4 + 4 + 8;

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// The dimensions in the file's order, innermost (a row's length) first; at most four, none for a single weight.
    pub shape: Vec<u64>,
    /// How the weights are stored.
    pub kind: TensorType,
    /// Where the tensor's bytes begin, from the start of the file.
    pub offset: u64,
    /// How many bytes it takes; 0 where `kind` is a number that is not known, so that no size follows from the shape.
    pub bytes: u64,
}

/// A tensor as listed, before it is known where in the file the tensor data begins.
pub(super) struct Entry {
    /// Where in the file the entry begins, for messages.
    pub(super) at: u64,
    /// `info.offset` still counts from the start of the tensor data.
    pub(super) info: TensorInfo,
}

impl Entry {
    pub(super) fn name(&self) -> &str {
        &self.info.name
    }

    /// Reads the entry with this number in the list.
    pub(super) fn read(cursor: &mut Cursor<'_>, number: usize) -> Result<Self> {
        let at = cursor.at();
        let name = cursor.name(&format_args!("the name of tensor {number}"))?.to_owned();
        let quoted = Quoted(&name);
        let count_at = cursor.at();
        let count = cursor.u32(&format_args!("the number of dimensions of tensor {quoted}"))?;
        if count > MOST_DIMENSIONS {
            let problem = format!(
                "tensor {quoted} has {count} dimensions, but at most {MOST_DIMENSIONS} are allowed"
            );
            return Err(cursor.fail(count_at, problem));
        }
        let shape_at = cursor.at();
        let shape = (0..count)
            .map(|axis| cursor.u64(&format_args!("dimension {axis} of tensor {quoted}")))
            .collect::<Result<Vec<_>>>()?;
        let kind = TensorType::from_id(cursor.u32(&format_args!("the type of tensor {quoted}"))?);
        let offset = cursor.u64(&format_args!("the offset of tensor {quoted}"))?;
        let bytes = size(kind, &shape).map_err(|problem| {
            cursor
                .fail(shape_at, format!("tensor {quoted} ({kind}) has shape {shape:?}, {problem}"))
        })?;
        Ok(Self { at, info: TensorInfo { name, shape, kind, offset, bytes } })
    }
}

/// The bytes that a tensor takes, or why it cannot exist.
fn size(kind: TensorType, shape: &[u64]) -> std::result::Result<u64, String> {
    let too_large = || "but its size does not fit in 64 bits".to_owned();
    let weights = shape
        .iter()
        .try_fold(1u64, |product, dimension| product.checked_mul(*dimension))
        .ok_or_else(too_large)?;
    let Some(block) = kind.block() else { return Ok(0) };
    let row = shape.first().copied().unwrap_or(1);
    if row % block.weights != 0 {
        return Err(format!("but its rows must be multiples of {} weights", block.weights));
    }
    (weights / block.weights).checked_mul(block.bytes).ok_or_else(too_large)
}

/// Moves the offsets to the start of the file, and checks that every tensor lies in it, aligned, and on its own.
pub(super) fn place(
    cursor: &Cursor<'_>,
    entries: Vec<Entry>,
    alignment: u32,
) -> Result<Vec<TensorInfo>> {
    let alignment = u64::from(alignment);
    // At most the file's size plus an alignment of 32 bits, so no overflow.
    let data = cursor.at().next_multiple_of(alignment);
    let mut entries = entries;
    for entry in &mut entries {
        let relative = entry.info.offset;
        if relative % alignment != 0 {
            let problem = format!(
                "tensor {} has offset {relative}, but offsets are multiples of the alignment, {alignment}",
                Quoted(entry.name())
            );
            return Err(cursor.fail(entry.at, problem));
        }
        let offset = data.checked_add(relative);
        let end = offset.and_then(|offset| offset.checked_add(entry.info.bytes));
        match (offset, end) {
            (Some(offset), Some(end)) if end <= cursor.size() => entry.info.offset = offset,
            _ => return Err(outside(cursor, entry, data)),
        }
    }
    check_overlap(cursor, &entries)?;
    Ok(entries.into_iter().map(|entry| entry.info).collect())
}

/// The error for a tensor that does not lie in the file.
fn outside(cursor: &Cursor<'_>, entry: &Entry, data: u64) -> Error {
    let TensorInfo { kind, shape, offset, bytes, .. } = &entry.info;
    let problem = format!(
        "tensor {} ({kind}, shape {shape:?}) takes {bytes} bytes at offset {offset} of the tensor data, which begins \
         at byte {data}, but the file ends at byte {}",
        Quoted(entry.name()),
        cursor.size()
    );
    cursor.fail(entry.at, problem)
}

/// Neighbours in the order of their offsets are all that need comparing: the first overlap is between two of them.
fn check_overlap(cursor: &Cursor<'_>, entries: &[Entry]) -> Result<()> {
    let mut order: Vec<&Entry> = entries.iter().filter(|entry| entry.info.bytes > 0).collect();
    order.sort_unstable_by_key(|entry| (entry.info.offset, entry.at));
    for pair in order.windows(2) {
        let (first, second) = (&pair[0].info, &pair[1].info);
        let end = first.offset + first.bytes;
        if second.offset < end {
            let problem = format!(
                "tensor {} begins at byte {}, but tensor {} ends only at byte {end}",
                Quoted(&second.name),
                second.offset,
                Quoted(&first.name)
            );
            return Err(cursor.fail(pair[1].at, problem));
        }
    }
    Ok(())
}
