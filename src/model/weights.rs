//! Weight matrices in GPU memory: packed row by row from the memory map, in parts below the binding limit.

use super::gguf::{Gguf, TensorInfo, TensorType};
use crate::gpu::{Binding, Gpu};
use crate::kernels::{Packed, WeightFormat, pack_row};
use crate::reference::dequantize::dequantize;
use crate::{Error, Result};

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

/// Bytes that a tensor's weights take on the GPU.
pub(crate) fn gpu_bytes(info: &TensorInfo) -> Result<u64> {
    let format = WeightFormat::of(info.kind)?;
    let rows: u64 = info.shape[1..].iter().product();
    Ok(rows
        * info.shape[0].div_ceil(WeightFormat::UNIT)
        * (format.unit_bytes() + format.scale_bytes()))
}

/// Uploads weights with bounded host memory, and reports progress in bytes of the file.
pub(crate) struct Loader<'a> {
    pub(crate) gpu: &'a Gpu,
    pub(crate) file: &'a Gguf,
    pub(crate) progress: &'a mut (dyn FnMut(u64) + Send),
    pub(crate) unflushed: u64,
}

// What the driver may hold in staging before it is told to finish.
const MOST_STAGED: u64 = 32 << 20;
// What is packed at a time.
const MOST_PACKED: u64 = 4 << 20;

/// Rows of one format that are to become parts of a matrix.
struct Rows<'a> {
    /// A tensor that they come from, for its row length and its name.
    info: &'a TensorInfo,
    format: WeightFormat,
    /// The first one's number in the matrix.
    first_row: u32,
    rows: u32,
    /// Parts begin at multiples of so many rows.
    granule: u32,
}

// A row's type and bytes in the file.
type Row<'a> = (TensorType, std::borrow::Cow<'a, [u8]>);

impl Loader<'_> {
    /// One matrix of the rows of several tensors, one after the other. Tensors of different types make parts of their own.
    pub(crate) async fn stacked(&mut self, tensors: &[&TensorInfo]) -> Result<Matrix> {
        let mut parts = Vec::new();
        let mut first_row = 0;
        let mut i = 0;
        while i < tensors.len() {
            let kind = tensors[i].kind;
            let same = tensors[i..].iter().take_while(|t| t.kind == kind).count();
            let group = &tensors[i..i + same];
            let file = self.file;
            let rows: u64 = group.iter().map(|t| t.shape[1]).sum();
            let row = |mut row: u64| {
                for tensor in group {
                    if row < tensor.shape[1] {
                        return Ok((kind, row_bytes(file, tensor, row).into()));
                    }
                    row -= tensor.shape[1];
                }
                unreachable!("row is below the sum of rows")
            };
            self.rows(
                Rows {
                    info: group[0],
                    format: WeightFormat::of(kind)?,
                    first_row,
                    rows: rows as u32,
                    granule: 1,
                },
                row,
                &mut parts,
            )
            .await?;
            first_row += rows as u32;
            i += same;
        }
        Ok(Matrix { parts })
    }

    /// One matrix whose rows alternate between two tensors of the same shape. Different types meet in f32.
    pub(crate) async fn interleaved(
        &mut self,
        even: &TensorInfo,
        odd: &TensorInfo,
    ) -> Result<Matrix> {
        let file = self.file;
        let kind = if even.kind == odd.kind { even.kind } else { TensorType::F32 };
        let row = |row: u64| {
            let tensor = if row.is_multiple_of(2) { even } else { odd };
            let bytes = row_bytes(file, tensor, row / 2);
            if tensor.kind == kind {
                return Ok((kind, bytes.into()));
            }
            let floats = dequantize(tensor.kind, bytes)?;
            Ok((kind, floats.iter().flat_map(|f| f.to_le_bytes()).collect::<Vec<_>>().into()))
        };
        let mut parts = Vec::new();
        let rows = (even.shape[1] * 2) as u32;
        self.rows(
            Rows { info: even, format: WeightFormat::of(kind)?, first_row: 0, rows, granule: 2 },
            row,
            &mut parts,
        )
        .await?;
        Ok(Matrix { parts })
    }

    async fn rows<'f>(
        &mut self,
        block: Rows<'_>,
        row: impl Fn(u64) -> Result<Row<'f>>,
        parts: &mut Vec<Part>,
    ) -> Result<()> {
        let Rows { info, format, first_row, rows, granule } = block;
        let units = info.shape[0].div_ceil(WeightFormat::UNIT);
        let row_weights = units * format.unit_bytes();
        let fit = (self.gpu.max_binding() / row_weights) as u32 / granule * granule;
        if fit == 0 {
            return Err(Error::Model(format!(
                "a row of tensor {} takes {row_weights} bytes, but a binding holds {} here",
                info.name,
                self.gpu.max_binding()
            )));
        }
        let mut done = 0;
        while done < rows {
            let count = fit.min(rows - done);
            let weights_bytes = u64::from(count) * row_weights;
            let scales_at = weights_bytes.next_multiple_of(256);
            let scales_bytes = u64::from(count) * units * format.scale_bytes();
            let buffer = self.gpu.storage(&info.name, scales_at + scales_bytes.max(16)).await?;
            let (mut weights_to, mut scales_to) = (0, scales_at);
            let mut packed = Packed::default();
            for r in 0..count {
                let (kind, bytes) = row(u64::from(done + r))?;
                pack_row(kind, &bytes, &mut packed)?;
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

fn row_bytes<'f>(file: &'f Gguf, tensor: &TensorInfo, row: u64) -> &'f [u8] {
    let bytes = file.bytes(tensor);
    // Reading the file checked that rows are whole blocks, so rows have equal sizes.
    let size = bytes.len() / tensor.shape[1] as usize;
    &bytes[row as usize * size..][..size]
}
