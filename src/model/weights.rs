//! Weight matrices in GPU memory: packed row by row from the memory map, in parts below the binding limit.

use super::file::ModelFile;
use super::gguf::{TensorInfo, TensorType};
use super::tensors::{Recipe, Rows};
use crate::gpu::{Binding, Gpu};
use crate::kernels::{Packed, WeightFormat, pack_row};
use crate::reference::dequantize::dequantize;
use crate::{Error, Result};
use half::bf16;
use std::borrow::Cow;

/// A matrix as one or more parts, each a range of its rows.
pub(crate) struct Matrix {
    pub(crate) parts: Vec<Part>,
}

/// Consecutive rows in one buffer: a plane of weights, then a plane of scales.
pub(crate) struct Part {
    pub(crate) format: WeightFormat,
    pub(crate) first_row: u32,
    pub(crate) rows: u32,
    /// Units of 32 weights in a row.
    pub(crate) units: u32,
    buffer: wgpu::Buffer,
    weights_bytes: u64,
    scales_at: u64,
}

impl Part {
    pub(crate) fn weights(&self) -> Binding<'_> {
        Binding::range(&self.buffer, 0, self.weights_bytes)
    }

    pub(crate) fn scales(&self) -> Binding<'_> {
        Binding::range(&self.buffer, self.scales_at, self.buffer.size() - self.scales_at)
    }
}

/// Bytes that a matrix takes on the GPU.
pub(crate) fn gpu_bytes(recipe: &Recipe<'_>) -> Result<u64> {
    runs(recipe).iter().try_fold(0, |sum, run| {
        let format = WeightFormat::of(run.kind)?;
        let units = run.rows * run.units();
        Ok(sum + units * format.unit_bytes() + format.scale_bytes(units))
    })
}

/// Rows of a matrix that have one type.
struct Run<'a> {
    kind: TensorType,
    /// Weights of a row.
    length: u64,
    rows: u64,
    source: Source<'a>,
}

enum Source<'a> {
    Rows(Vec<Rows<'a>>),
    Pairs(Vec<(Rows<'a>, Rows<'a>)>),
    Columns(Vec<Rows<'a>>),
}

impl Run<'_> {
    fn units(&self) -> u64 {
        self.length.div_ceil(WeightFormat::UNIT)
    }

    // A tensor to name in errors.
    fn name(&self) -> &str {
        match &self.source {
            Source::Rows(rows) | Source::Columns(rows) => &rows[0].info.name,
            Source::Pairs(pairs) => &pairs[0].0.info.name,
        }
    }
}

fn runs<'a>(recipe: &Recipe<'a>) -> Vec<Run<'a>> {
    let mut runs = Vec::<Run<'a>>::new();
    match recipe {
        Recipe::Stacked(list) => {
            for rows in list {
                let (kind, length) = (rows.info.kind, rows.info.shape[0]);
                match runs.last_mut() {
                    Some(Run { kind: same, rows: count, source: Source::Rows(run), .. })
                        if *same == kind =>
                    {
                        run.push(*rows);
                        *count += rows.count;
                    }
                    _ => runs.push(Run {
                        kind,
                        length,
                        rows: rows.count,
                        source: Source::Rows(vec![*rows]),
                    }),
                }
            }
        }
        Recipe::Interleaved(list) => {
            for (even, odd) in list {
                // Different types meet in f32.
                let same = even.info.kind == odd.info.kind;
                let kind = if same { even.info.kind } else { TensorType::F32 };
                match runs.last_mut() {
                    Some(Run { kind: same, rows: count, source: Source::Pairs(run), .. })
                        if *same == kind =>
                    {
                        run.push((*even, *odd));
                        *count += 2 * even.count;
                    }
                    _ => runs.push(Run {
                        kind,
                        length: even.info.shape[0],
                        rows: 2 * even.count,
                        source: Source::Pairs(vec![(*even, *odd)]),
                    }),
                }
            }
        }
        Recipe::Transposed(list) => runs.push(Run {
            // Columns of quantised blocks are no blocks.
            kind: match list[0].info.kind {
                TensorType::BF16 => TensorType::BF16,
                _ => TensorType::F32,
            },
            length: list[0].count,
            rows: list.iter().map(|rows| rows.info.shape[0]).sum(),
            source: Source::Columns(list.clone()),
        }),
    }
    runs
}

/// Gives a run's rows in order, as bytes of its type.
struct Reader<'f, 'a> {
    file: &'f ModelFile,
    run: &'f Run<'a>,
    /// The last rows whose columns were asked for: their place in the list, and their weights.
    columns: Option<(usize, Vec<f32>)>,
}

impl<'f> Reader<'f, '_> {
    fn row(&mut self, i: u64) -> Result<Cow<'f, [u8]>> {
        match &self.run.source {
            Source::Rows(list) => {
                let (at, i) = locate(list.iter().map(|rows| rows.count), i);
                self.convert(&list[at], i)
            }
            Source::Pairs(list) => {
                let (at, i) = locate(list.iter().map(|pair| 2 * pair.0.count), i);
                let (even, odd) = &list[at];
                self.convert(if i.is_multiple_of(2) { even } else { odd }, i / 2)
            }
            Source::Columns(list) => {
                let (at, i) = locate(list.iter().map(|rows| rows.info.shape[0]), i);
                if self.columns.as_ref().is_none_or(|columns| columns.0 != at) {
                    let rows = &list[at];
                    let mut floats = Vec::new();
                    for row in 0..rows.count {
                        floats.extend(dequantize(rows.info.kind, row_bytes(self.file, rows, row))?);
                    }
                    self.columns = Some((at, floats));
                }
                let floats = &self.columns.as_ref().expect("it was just filled").1;
                let width = list[at].info.shape[0] as usize;
                let column: Vec<f32> =
                    floats.iter().skip(i as usize).step_by(width).copied().collect();
                Ok(encode(self.run.kind, &column).into())
            }
        }
    }

    fn convert(&self, rows: &Rows<'_>, i: u64) -> Result<Cow<'f, [u8]>> {
        let bytes = row_bytes(self.file, rows, i);
        if rows.info.kind == self.run.kind {
            return Ok(bytes.into());
        }
        Ok(encode(self.run.kind, &dequantize(rows.info.kind, bytes)?).into())
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

fn encode(kind: TensorType, floats: &[f32]) -> Vec<u8> {
    match kind {
        TensorType::BF16 => floats.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
        _ => floats.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

fn row_bytes<'f>(file: &'f ModelFile, rows: &Rows<'_>, i: u64) -> &'f [u8] {
    let bytes = file.bytes(rows.info);
    // Opening the file checked that rows are whole blocks, so rows have equal sizes.
    let all: u64 = rows.info.shape[1..].iter().product();
    let size = bytes.len() / all as usize;
    &bytes[(rows.first + i) as usize * size..][..size]
}

/// Uploads weights with bounded host memory, and reports progress in bytes of the file.
pub(crate) struct Loader<'a> {
    pub(crate) gpu: &'a Gpu,
    pub(crate) file: &'a ModelFile,
    pub(crate) progress: &'a mut (dyn FnMut(u64) + Send),
    pub(crate) unflushed: u64,
}

// What the driver may hold in staging before it is told to finish.
const MOST_STAGED: u64 = 32 << 20;
// What is packed at a time.
const MOST_PACKED: u64 = 4 << 20;

impl Loader<'_> {
    /// A matrix whose parts begin at multiples of `granule` rows.
    pub(crate) async fn matrix(&mut self, recipe: &Recipe<'_>, granule: u32) -> Result<Matrix> {
        let mut parts = Vec::new();
        let mut first_row = 0;
        for run in runs(recipe) {
            self.run(&run, first_row, granule, &mut parts).await?;
            first_row += run.rows as u32;
        }
        Ok(Matrix { parts })
    }

    async fn run(
        &mut self,
        run: &Run<'_>,
        first_row: u32,
        granule: u32,
        parts: &mut Vec<Part>,
    ) -> Result<()> {
        let format = WeightFormat::of(run.kind)?;
        let (rows, units) = (run.rows as u32, run.units());
        let row_weights = units * format.unit_bytes();
        let fit = (self.gpu.max_binding() / row_weights).min(u64::from(u32::MAX)) as u32 / granule
            * granule;
        if fit == 0 {
            return Err(Error::Model(format!(
                "{granule} rows of tensor {} take {} bytes, but a binding holds {} here",
                run.name(),
                u64::from(granule) * row_weights,
                self.gpu.max_binding()
            )));
        }
        let mut reader = Reader { file: self.file, run, columns: None };
        let mut done = 0;
        while done < rows {
            let count = fit.min(rows - done);
            let weights_bytes = u64::from(count) * row_weights;
            let scales_at = weights_bytes.next_multiple_of(256);
            let scales_bytes = format.scale_bytes(u64::from(count) * units);
            let buffer = self.gpu.storage(run.name(), scales_at + scales_bytes.max(16)).await?;
            let (mut weights_to, mut scales_to) = (0, scales_at);
            let mut packed = Packed::default();
            for r in 0..count {
                let bytes = reader.row(u64::from(done + r))?;
                pack_row(run.kind, &bytes, &mut packed)?;
                (self.progress)(bytes.len() as u64);
                if packed.weights.len() as u64 * 4 >= MOST_PACKED || r + 1 == count {
                    for (words, to) in [
                        (&mut packed.weights, &mut weights_to),
                        (&mut packed.scales, &mut scales_to),
                    ] {
                        self.gpu.write(&buffer, *to, bytemuck::cast_slice(words));
                        *to += words.len() as u64 * 4;
                        self.unflushed += words.len() as u64 * 4;
                        words.clear();
                    }
                    self.flush(MOST_STAGED)?;
                }
            }
            parts.push(Part {
                format,
                first_row: first_row + done,
                rows: count,
                units: units as u32,
                buffer,
                weights_bytes,
                scales_at,
            });
            done += count;
        }
        Ok(())
    }

    /// A norm's weights, as floats.
    pub(crate) async fn vector(&mut self, info: &TensorInfo) -> Result<wgpu::Buffer> {
        let floats = dequantize(info.kind, self.file.bytes(info))?;
        (self.progress)(info.bytes);
        self.gpu.storage_with(&info.name, bytemuck::cast_slice(&floats)).await
    }

    /// Lets the driver finish its copies when more than `most` bytes are staged.
    pub(crate) fn flush(&mut self, most: u64) -> Result<()> {
        if self.unflushed > most {
            self.unflushed = 0;
            let index =
                self.gpu.submit(self.gpu.device.create_command_encoder(&Default::default()))?;
            self.gpu.wait(index)?;
        }
        Ok(())
    }
}
