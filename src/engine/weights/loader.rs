//! Uploads weights with bounded host memory.

use super::parts::{PartPlan, parts, vectors};
use super::reader::{Reader, in_tensor};
use super::runs::{Run, gate_up, is_float, runs};
use super::{Matrix, Part};
use crate::Result;
use crate::formats::{Packed, Quantise, WeightFormat, check_finite, dequantise, pack_row};
use crate::gpu::Gpu;
use crate::kernels::Output;
use crate::model::ModelFile;
use crate::model::gguf::TensorInfo;
use crate::model::tensors::{GatesUps, MatrixTensors};
use std::ops::Range;

/// Uploads weights with bounded host memory, and reports progress in bytes of the file.
pub(in crate::engine) struct Loader<'a> {
    pub(in crate::engine) gpu: &'a Gpu,
    pub(in crate::engine) file: &'a ModelFile,
    /// The type that floats become.
    pub(in crate::engine) quantise: Option<Quantise>,
    /// What is added to the weights of norms as the file holds them.
    pub(in crate::engine) norm_offset: f32,
    pub(in crate::engine) progress: &'a mut (dyn FnMut(u64) + Send),
    pub(in crate::engine) unflushed: u64,
}

// The most that the driver may hold in staging before it is told to finish.
const MOST_STAGED: u64 = 32 << 20;
// Bytes that are packed at a time.
const MOST_PACKED: usize = 4 << 20;

impl Loader<'_> {
    /// A matrix, in as many parts as it takes.
    pub(in crate::engine) async fn matrix(&mut self, matrix: &MatrixTensors<'_>) -> Result<Matrix> {
        let mut parts = Vec::new();
        let mut first_row = 0;
        for run in runs(matrix, self.quantise) {
            self.run(&run, first_row, matrix.granule, &mut parts).await?;
            first_row += run.rows as u32;
        }
        Ok(Matrix { parts })
    }

    /// Gate and up projections.
    pub(in crate::engine) async fn gate_up(
        &mut self,
        tensors: &GatesUps<'_>,
    ) -> Result<Vec<(Matrix, Output)>> {
        let mut matrices = Vec::new();
        for (matrix, output) in gate_up(tensors, self.quantise) {
            matrices.push((self.matrix(&matrix).await?, output));
        }
        Ok(matrices)
    }

    async fn run(
        &mut self,
        run: &Run<'_>,
        first_row: u32,
        granule: u32,
        made: &mut Vec<Part>,
    ) -> Result<()> {
        let mut reader = Reader::new(self.file, run);
        for part in parts(run, granule, self.gpu.max_binding())? {
            let buffer = self.gpu.allocate(&part.buffer).await?;
            let PartPlan { format, rows, units, weights_bytes, scales_at, .. } = part;
            let (first, count) = (rows.start, rows.len() as u32);
            // Rows that the GPU stores as the file does need no packing.
            if is_float(run.kind) && run.length.is_multiple_of(WeightFormat::UNIT) {
                self.copy(&mut reader, rows, &buffer).await?;
            } else {
                self.pack(&mut reader, rows, &buffer, scales_at).await?;
            }
            let first_row = first_row + first;
            made.push(Part {
                format,
                first_row,
                rows: count,
                units,
                buffer,
                weights_bytes,
                scales_at,
            });
        }
        Ok(())
    }

    async fn copy(
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
            if bytes.len() >= MOST_PACKED || row + 1 == rows.end {
                self.write(buffer, &mut to, &bytes);
                bytes.clear();
                self.flush(MOST_STAGED).await?;
            }
        }
        Ok(())
    }

    async fn pack(
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
            pack_row(reader.run.kind, &bytes, &mut packed)
                .map_err(|error| reader.of_row(u64::from(row), error))?;
            (self.progress)(std::mem::take(&mut reader.read));
            if packed.is_full(MOST_PACKED) || row + 1 == rows.end {
                self.write(buffer, &mut weights_to, bytemuck::cast_slice(&packed.weights));
                self.write(buffer, &mut scales_to, bytemuck::cast_slice(&packed.scales));
                packed.clear();
                self.flush(MOST_STAGED).await?;
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
    pub(in crate::engine) async fn norm(&mut self, info: &TensorInfo) -> Result<wgpu::Buffer> {
        self.added_to(&[info], self.norm_offset).await
    }

    /// Vectors one after the other, likewise.
    pub(in crate::engine) async fn vectors(
        &mut self,
        infos: &[&TensorInfo],
    ) -> Result<wgpu::Buffer> {
        self.added_to(infos, 0.0).await
    }

    async fn added_to(&mut self, infos: &[&TensorInfo], offset: f32) -> Result<wgpu::Buffer> {
        let mut floats = Vec::new();
        for info in infos {
            let bytes = self.file.bytes(info);
            check_finite(info.kind, bytes).map_err(|e| in_tensor(info, e))?;
            let stored = dequantise(info.kind, bytes)?;
            floats.extend(stored.into_iter().map(|value| value + offset));
            (self.progress)(info.bytes);
        }
        floats.resize(floats.len().next_multiple_of(WeightFormat::UNIT as usize), 0.0);
        self.gpu.allocate_with(&vectors(infos), bytemuck::cast_slice(&floats)).await
    }

    /// Lets the driver finish its copies when more than `most` bytes are staged.
    pub(in crate::engine) async fn flush(&mut self, most: u64) -> Result<()> {
        if self.unflushed > most {
            self.unflushed = 0;
            let index =
                self.gpu.submit(self.gpu.device.create_command_encoder(&Default::default()))?;
            self.gpu.wait(index).await?;
        }
        Ok(())
    }
}
