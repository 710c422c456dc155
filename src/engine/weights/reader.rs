//! The rows of a run, as bytes of its type.

use super::runs::{Run, Source};
use crate::formats::{Quantise, TensorType, check_finite, dequantise};
use crate::model::ModelFile;
use crate::model::gguf::TensorInfo;
use crate::model::tensors::{GateUp, Rows};
use crate::{Error, Result};
use half::{bf16, f16};
use std::borrow::Cow;

/// Gives a run's rows in order, as bytes of its type.
pub(super) struct Reader<'f, 'a> {
    file: &'f ModelFile,
    pub(super) run: &'f Run<'a>,
    /// The last rows whose columns were asked for: their place in the list, and their weights.
    columns: Option<(usize, Vec<f32>)>,
    /// Bytes of the file that were read and not reported.
    pub(super) read: u64,
}

impl<'f, 'a> Reader<'f, 'a> {
    pub(super) fn new(file: &'f ModelFile, run: &'f Run<'a>) -> Self {
        Self { file, run, columns: None, read: 0 }
    }

    /// # Errors
    /// [`Error::Model`] naming the tensor, for numbers that the row's type cannot hold or that are no numbers.
    pub(super) fn row(&mut self, i: u64) -> Result<Cow<'f, [u8]>> {
        let checked = self.stored(i).and_then(|bytes| {
            check_finite(self.run.kind, &bytes)?;
            Ok(bytes)
        });
        checked.map_err(|error| self.of_row(i, error))
    }

    /// An error of a row, with the tensor that it is of and its place there.
    pub(super) fn of_row(&self, i: u64, error: Error) -> Error {
        let (info, place) = match &self.run.source {
            Source::Rows(list) => {
                let (at, i) = locate(list.iter().map(|rows| rows.count), i);
                (list[at].info, format!("row {}", list[at].first + i))
            }
            Source::Pairs(list) => {
                let (rows, i) = pair_row(list, i);
                (rows.info, format!("row {}", rows.first + i))
            }
            Source::Columns(list) => {
                let (at, i) = locate(list.iter().map(|rows| rows.info.shape[0]), i);
                (list[at].info, format!("column {i}"))
            }
        };
        in_tensor(info, in_place(&place, error))
    }

    fn stored(&mut self, i: u64) -> Result<Cow<'f, [u8]>> {
        match &self.run.source {
            Source::Rows(list) => {
                let (at, i) = locate(list.iter().map(|rows| rows.count), i);
                self.convert(&list[at], i)
            }
            Source::Pairs(list) => {
                let (rows, i) = pair_row(list, i);
                self.convert(rows, i)
            }
            Source::Columns(list) => {
                let (at, i) = locate(list.iter().map(|rows| rows.info.shape[0]), i);
                if self.columns.as_ref().is_none_or(|columns| columns.0 != at) {
                    let rows = &list[at];
                    let mut floats = Vec::new();
                    for row in 0..rows.count {
                        let bytes = row_bytes(self.file, rows, row);
                        self.read += bytes.len() as u64;
                        floats.extend(dequantise(rows.info.kind, bytes)?);
                    }
                    self.columns = Some((at, floats));
                }
                let floats = &self.columns.as_ref().expect("it was just filled").1;
                let width = list[at].info.shape[0] as usize;
                let column: Vec<f32> =
                    floats.iter().skip(i as usize).step_by(width).copied().collect();
                encode(self.run.kind, &column).map(Cow::from)
            }
        }
    }

    fn convert(&mut self, rows: &Rows<'_>, i: u64) -> Result<Cow<'f, [u8]>> {
        let bytes = row_bytes(self.file, rows, i);
        self.read += bytes.len() as u64;
        if rows.info.kind == self.run.kind {
            return Ok(bytes.into());
        }
        let floats = dequantise(rows.info.kind, bytes)?;
        encode(self.run.kind, &floats).map(Cow::from)
    }
}

// The item that the i-th of all lies in, and its number there.
fn locate(counts: impl Iterator<Item = u64>, mut i: u64) -> (usize, u64) {
    for (at, count) in counts.enumerate() {
        if i < count {
            return (at, i);
        }
        i -= count;
    }
    unreachable!("the row is below the sum of rows")
}

// Row i of rows that alternate.
fn pair_row<'p, 'a>(list: &'p [GateUp<'a>], i: u64) -> (&'p Rows<'a>, u64) {
    let (at, i) = locate(list.iter().map(|pair| 2 * pair.0.count), i);
    let (even, odd) = &list[at];
    (if i.is_multiple_of(2) { even } else { odd }, i / 2)
}

/// An error of a tensor's weights, with its name.
pub(super) fn in_tensor(info: &TensorInfo, error: Error) -> Error {
    in_place(&format!("tensor {}", info.name), error)
}

fn in_place(place: &str, error: Error) -> Error {
    match error {
        Error::Model(message) => Error::Model(format!("{place}: {message}")),
        other => other,
    }
}

// A row as this type stores it.
fn encode(kind: TensorType, floats: &[f32]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(quantise) = Quantise::ALL.into_iter().find(|quantise| quantise.kind() == kind) {
        quantise.row(floats, &mut bytes)?;
        return Ok(bytes);
    }
    match kind {
        TensorType::BF16 => {
            bytes.extend(floats.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()));
        }
        TensorType::F16 => {
            bytes.extend(floats.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()));
        }
        _ => bytes.extend(floats.iter().flat_map(|v| v.to_le_bytes())),
    }
    Ok(bytes)
}

fn row_bytes<'f>(file: &'f ModelFile, rows: &Rows<'_>, i: u64) -> &'f [u8] {
    let bytes = file.bytes(rows.info);
    // Opening the file checked that rows are whole blocks, so rows have equal sizes.
    let all: u64 = rows.info.shape[1..].iter().product();
    let size = bytes.len() / all as usize;
    &bytes[(rows.first + i) as usize * size..][..size]
}
