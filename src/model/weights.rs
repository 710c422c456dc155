//! Weight matrices in GPU memory: packed row by row from the memory map, in parts below the binding limit.

use super::file::ModelFile;
use super::gguf::{TensorInfo, TensorType};
use super::quantise::Quantise;
use super::tensors::{GateUp, Recipe, Rows};
use crate::gpu::{Binding, Gpu};
use crate::kernels::{Output, Packed, WeightFormat, pack_row};
use crate::reference::dequantize::dequantize;
use crate::{Error, Result};
use half::{bf16, f16};
use std::borrow::Cow;
use std::ops::Range;

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
        let binding = Binding::range(&self.buffer, 0, self.weights_bytes);
        binding.holding(self.all_units() * self.format.unit_bytes())
    }

    pub(crate) fn scales(&self) -> Binding<'_> {
        let bytes = self.buffer.size() - self.scales_at;
        let binding = Binding::range(&self.buffer, self.scales_at, bytes);
        binding.holding(self.format.scale_bytes(self.all_units()))
    }

    fn all_units(&self) -> u64 {
        u64::from(self.rows) * u64::from(self.units)
    }
}

/// Bytes of a matrix on the GPU.
pub(crate) struct GpuBytes {
    pub(crate) all: u64,
    /// Of weights that are quantised in the file and floats here.
    pub(crate) expanded: u64,
}

/// Bytes that a matrix takes on the GPU, with floats quantised if that is asked.
pub(crate) fn gpu_bytes(recipe: &Recipe<'_>, quantise: Option<Quantise>) -> Result<GpuBytes> {
    let mut bytes = GpuBytes { all: 0, expanded: 0 };
    for run in runs(recipe, quantise) {
        let format = WeightFormat::of(run.kind)?;
        let units = run.rows * run.units();
        let of_run = units * format.unit_bytes() + format.scale_bytes(units);
        bytes.all += of_run;
        if is_float(run.kind) && !is_float(run.first().kind) {
            bytes.expanded += of_run;
        }
    }
    Ok(bytes)
}

/// The matrices of gate and up projections, in the order in which they are multiplied, and what becomes of their products.
/// Where both have one type their rows alternate, and one product makes all of it. Where they differ, which a quantiser
/// that weighs tensors does, each is a matrix of its own: alternating rows would have to meet in f32.
pub(crate) fn gate_up<'a>(
    pairs: &[GateUp<'a>],
    quantise: Option<Quantise>,
) -> Vec<(Recipe<'a>, Output)> {
    let is_same = |(gate, up): &GateUp<'a>| {
        stored(gate.info.kind, quantise) == stored(up.info.kind, quantise)
    };
    if pairs.iter().all(is_same) {
        return vec![(Recipe::Interleaved(pairs.to_vec()), Output::SwiGlu)];
    }
    let (gates, ups) = pairs.iter().copied().unzip();
    vec![(Recipe::Stacked(gates), Output::Store), (Recipe::Stacked(ups), Output::Gated)]
}

// A tensor's type on the GPU.
fn stored(kind: TensorType, quantise: Option<Quantise>) -> TensorType {
    match quantise {
        Some(quantise) if is_float(kind) => quantise.kind(),
        _ => kind,
    }
}

/// Rows of a matrix that have one type.
struct Run<'a> {
    /// The stored type, whatever they are read as.
    kind: TensorType,
    /// Weights of a row.
    length: u64,
    rows: u64,
    source: Source<'a>,
}

enum Source<'a> {
    Rows(Vec<Rows<'a>>),
    Pairs(Vec<GateUp<'a>>),
    Columns(Vec<Rows<'a>>),
}

impl<'a> Run<'a> {
    /// Adds the rows of the next piece of the same recipe and type.
    fn append(&mut self, next: Run<'a>) {
        self.rows += next.rows;
        match (&mut self.source, next.source) {
            (Source::Rows(list), Source::Rows(more))
            | (Source::Columns(list), Source::Columns(more)) => list.extend(more),
            (Source::Pairs(list), Source::Pairs(more)) => list.extend(more),
            _ => unreachable!("a recipe has sources of one kind"),
        }
    }

    fn units(&self) -> u64 {
        self.length.div_ceil(WeightFormat::UNIT)
    }

    fn first(&self) -> &'a TensorInfo {
        match &self.source {
            Source::Rows(rows) | Source::Columns(rows) => rows[0].info,
            Source::Pairs(pairs) => pairs[0].0.info,
        }
    }

    // A tensor to name in errors.
    fn name(&self) -> &str {
        &self.first().name
    }
}

fn runs<'a>(recipe: &Recipe<'a>, quantise: Option<Quantise>) -> Vec<Run<'a>> {
    let stored = |kind| stored(kind, quantise);
    let pieces: Vec<Run<'a>> = match recipe {
        Recipe::Stacked(list) => list
            .iter()
            .map(|rows| Run {
                kind: stored(rows.info.kind),
                length: rows.info.shape[0],
                rows: rows.count,
                source: Source::Rows(vec![*rows]),
            })
            .collect(),
        Recipe::Interleaved(list) => list
            .iter()
            .map(|(even, odd)| Run {
                // Both become the same, if only by quantising.
                kind: stored(even.info.kind),
                length: even.info.shape[0],
                rows: 2 * even.count,
                source: Source::Pairs(vec![(*even, *odd)]),
            })
            .collect(),
        Recipe::Transposed(list) => vec![Run {
            // Columns of quantised blocks are no blocks.
            kind: stored(match list[0].info.kind {
                float if is_float(float) => float,
                _ => TensorType::F32,
            }),
            length: list[0].count,
            rows: list.iter().map(|rows| rows.info.shape[0]).sum(),
            source: Source::Columns(list.clone()),
        }],
    };
    let mut runs = Vec::<Run<'a>>::new();
    for piece in pieces {
        match runs.last_mut().filter(|last| last.kind == piece.kind) {
            Some(last) => last.append(piece),
            None => runs.push(piece),
        }
    }
    runs
}

fn is_float(kind: TensorType) -> bool {
    matches!(kind, TensorType::F32 | TensorType::F16 | TensorType::BF16)
}

/// Gives a run's rows in order, as bytes of its type.
struct Reader<'f, 'a> {
    file: &'f ModelFile,
    run: &'f Run<'a>,
    /// The last rows whose columns were asked for: their place in the list, and their weights.
    columns: Option<(usize, Vec<f32>)>,
    /// Bytes of the file that were read and not reported.
    read: u64,
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
                        let bytes = row_bytes(self.file, rows, row);
                        self.read += bytes.len() as u64;
                        floats.extend(dequantize(rows.info.kind, bytes)?);
                    }
                    self.columns = Some((at, floats));
                }
                let floats = &self.columns.as_ref().expect("it was just filled").1;
                let width = list[at].info.shape[0] as usize;
                let column: Vec<f32> =
                    floats.iter().skip(i as usize).step_by(width).copied().collect();
                encode(self.run.kind, &column, list[at].info).map(Cow::from)
            }
        }
    }

    fn convert(&mut self, rows: &Rows<'_>, i: u64) -> Result<Cow<'f, [u8]>> {
        let bytes = row_bytes(self.file, rows, i);
        self.read += bytes.len() as u64;
        if rows.info.kind == self.run.kind {
            return Ok(bytes.into());
        }
        let floats = dequantize(rows.info.kind, bytes)?;
        encode(self.run.kind, &floats, rows.info).map(Cow::from)
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

// A row as this type stores it.
fn encode(kind: TensorType, floats: &[f32], info: &TensorInfo) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(quantise) = Quantise::ALL.into_iter().find(|quantise| quantise.kind() == kind) {
        quantise
            .row(floats, &mut bytes)
            .map_err(|e| Error::Model(format!("tensor {}: {e}", info.name)))?;
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

/// Uploads weights with bounded host memory, and reports progress in bytes of the file.
pub(crate) struct Loader<'a> {
    pub(crate) gpu: &'a Gpu,
    pub(crate) file: &'a ModelFile,
    /// The type that floats become.
    pub(crate) quantise: Option<Quantise>,
    pub(crate) progress: &'a mut (dyn FnMut(u64) + Send),
    pub(crate) unflushed: u64,
}

// The most that the driver may hold in staging before it is told to finish.
const MOST_STAGED: u64 = 32 << 20;
// Bytes that are packed at a time.
const MOST_PACKED: u64 = 4 << 20;

impl Loader<'_> {
    /// A matrix whose parts begin at multiples of `granule` rows.
    pub(crate) async fn matrix(&mut self, recipe: &Recipe<'_>, granule: u32) -> Result<Matrix> {
        self.runs(runs(recipe, self.quantise), granule).await
    }

    /// Gate and up projections, of matrices of `rows` numbers each.
    pub(crate) async fn gate_up(
        &mut self,
        pairs: &[GateUp<'_>],
        rows: u32,
    ) -> Result<Vec<(Matrix, Output)>> {
        let mut matrices = Vec::new();
        for (recipe, output) in gate_up(pairs, self.quantise) {
            matrices.push((self.matrix(&recipe, rows * output.rows()).await?, output));
        }
        Ok(matrices)
    }

    /// A matrix that is never quantised: few weights that decide much.
    pub(crate) async fn exact(&mut self, recipe: &Recipe<'_>) -> Result<Matrix> {
        self.runs(runs(recipe, None), 1).await
    }

    async fn runs(&mut self, runs: Vec<Run<'_>>, granule: u32) -> Result<Matrix> {
        let mut parts = Vec::new();
        let mut first_row = 0;
        for run in runs {
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
        let mut reader = Reader { file: self.file, run, columns: None, read: 0 };
        let mut done = 0;
        while done < rows {
            let count = fit.min(rows - done);
            let weights_bytes = u64::from(count) * row_weights;
            let scales_at = weights_bytes.next_multiple_of(256);
            let scales_bytes = format.scale_bytes(u64::from(count) * units);
            let buffer = self.gpu.storage(run.name(), scales_at + scales_bytes.max(16)).await?;
            let rows_of_part = done..done + count;
            // Rows that the GPU stores as the file does need no packing.
            if is_float(run.kind) && run.length.is_multiple_of(WeightFormat::UNIT) {
                self.copy(&mut reader, rows_of_part, &buffer)?;
            } else {
                self.pack(&mut reader, rows_of_part, &buffer, scales_at)?;
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

    fn copy(
        &mut self,
        reader: &mut Reader<'_, '_>,
        rows: Range<u32>,
        buffer: &wgpu::Buffer,
    ) -> Result<()> {
        let mut bytes = Vec::new();
        let mut to = 0;
        for row in rows.clone() {
            bytes.extend_from_slice(&reader.row(u64::from(row))?);
            (self.progress)(std::mem::take(&mut reader.read));
            if bytes.len() as u64 >= MOST_PACKED || row + 1 == rows.end {
                self.write(buffer, &mut to, &bytes);
                bytes.clear();
                self.flush(MOST_STAGED)?;
            }
        }
        Ok(())
    }

    fn pack(
        &mut self,
        reader: &mut Reader<'_, '_>,
        rows: Range<u32>,
        buffer: &wgpu::Buffer,
        scales_at: u64,
    ) -> Result<()> {
        let (mut weights_to, mut scales_to) = (0, scales_at);
        let mut packed = Packed::default();
        for row in rows.clone() {
            let bytes = reader.row(u64::from(row))?;
            pack_row(reader.run.kind, &bytes, &mut packed)?;
            (self.progress)(std::mem::take(&mut reader.read));
            if packed.weights.len() as u64 * 4 >= MOST_PACKED || row + 1 == rows.end {
                self.write(buffer, &mut weights_to, bytemuck::cast_slice(&packed.weights));
                self.write(buffer, &mut scales_to, bytemuck::cast_slice(&packed.scales));
                packed.weights.clear();
                packed.scales.clear();
                self.flush(MOST_STAGED)?;
            }
        }
        Ok(())
    }

    fn write(&mut self, buffer: &wgpu::Buffer, to: &mut u64, bytes: &[u8]) {
        self.gpu.write(buffer, *to, bytes);
        *to += bytes.len() as u64;
        self.unflushed += bytes.len() as u64;
    }

    /// A norm's weights, as floats, filled up to whole units of the products that norm their inputs.
    pub(crate) async fn vector(&mut self, info: &TensorInfo) -> Result<wgpu::Buffer> {
        self.vectors(&[info]).await
    }

    /// The same, of vectors one after the other.
    pub(crate) async fn vectors(&mut self, infos: &[&TensorInfo]) -> Result<wgpu::Buffer> {
        let mut floats = Vec::new();
        for info in infos {
            floats.extend(dequantize(info.kind, self.file.bytes(info))?);
            (self.progress)(info.bytes);
        }
        floats.resize(floats.len().next_multiple_of(WeightFormat::UNIT as usize), 0.0);
        self.gpu.storage_with(&infos[0].name, bytemuck::cast_slice(&floats)).await
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

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(kind: TensorType) -> TensorInfo {
        TensorInfo { name: "w".into(), shape: vec![256, 64], kind, offset: 0, bytes: 0 }
    }

    fn rows(info: &TensorInfo) -> Rows<'_> {
        Rows { info, first: 0, count: 64 }
    }

    #[test]
    fn only_gates_of_their_up_projections_type_alternate_with_them() {
        let pair = |gate, up| [tensor(gate), tensor(up)];
        let outputs = |pairs: &[[TensorInfo; 2]], quantise| -> Vec<Output> {
            let pairs: Vec<_> = pairs.iter().map(|[gate, up]| (rows(gate), rows(up))).collect();
            gate_up(&pairs, quantise).iter().map(|matrix| matrix.1).collect()
        };
        use TensorType::{BF16, F32, Q4K, Q6K, Q8_0};
        let (one, two) = (vec![Output::SwiGlu], vec![Output::Store, Output::Gated]);
        assert_eq!(outputs(&[pair(Q4K, Q4K)], None), one);
        assert_eq!(outputs(&[pair(Q4K, Q6K)], None), two);
        // A shared expert's may be of another type than those of all others.
        assert_eq!(outputs(&[pair(Q4K, Q4K), pair(Q6K, Q6K)], None), one);
        assert_eq!(outputs(&[pair(Q4K, Q4K), pair(Q4K, Q6K)], None), two);
        // It is the types on the GPU that count.
        assert_eq!(outputs(&[pair(F32, BF16)], None), two);
        assert_eq!(outputs(&[pair(F32, BF16)], Some(Quantise::Q8_0)), one);
        assert_eq!(outputs(&[pair(Q8_0, BF16)], Some(Quantise::Q8_0)), one);
        assert_eq!(outputs(&[pair(Q8_0, BF16)], Some(Quantise::Q4_0)), two);
    }

    #[test]
    fn columns_of_blocks_become_floats_and_are_counted() {
        let bytes = |kind| {
            let info = tensor(kind);
            let bytes = gpu_bytes(&Recipe::Transposed(vec![rows(&info)]), None).unwrap();
            (bytes.all, bytes.expanded)
        };
        let weights = 256 * 64;
        assert_eq!(bytes(TensorType::Q8_0), (4 * weights, 4 * weights));
        for (kind, size) in [(TensorType::F32, 4), (TensorType::F16, 2), (TensorType::BF16, 2)] {
            assert_eq!(bytes(kind), (size * weights, 0));
        }
        // Queries, keys and values lie one after the other, each as it is.
        let mixed = [TensorType::Q4K, TensorType::Q4K, TensorType::Q6K].map(tensor);
        let one = |info| Recipe::Stacked(vec![rows(info)]);
        let of = |recipe| gpu_bytes(&recipe, None).unwrap().all;
        let sum: u64 = mixed.iter().map(|info| of(one(info))).sum();
        assert_eq!(of(Recipe::Stacked(mixed.iter().map(rows).collect())), sum);
    }
}
