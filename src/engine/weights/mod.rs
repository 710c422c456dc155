//! Weight matrices in GPU memory: packed row by row from the memory map, in parts below the binding limit.

mod loader;
mod parts;
mod reader;
mod runs;

pub(super) use loader::Loader;
pub(super) use parts::WeightRows;

use crate::formats::WeightFormat;
use crate::gpu::Binding;

/// A matrix as one or more parts, each a range of its rows.
pub(in crate::engine) struct Matrix {
    pub(in crate::engine) parts: Vec<Part>,
}

/// Consecutive rows in one buffer: a plane of weights, then a plane of scales.
pub(in crate::engine) struct Part {
    pub(in crate::engine) format: WeightFormat,
    pub(in crate::engine) first_row: u32,
    pub(in crate::engine) rows: u32,
    /// Units of 32 weights in a row.
    pub(in crate::engine) units: u32,
    pub(super) buffer: wgpu::Buffer,
    pub(super) weights_bytes: u64,
    pub(super) scales_at: u64,
}

impl Part {
    pub(in crate::engine) fn weights(&self) -> Binding<'_> {
        let binding = Binding::range(&self.buffer, 0, self.weights_bytes);
        binding.holding(self.all_units() * self.format.unit_bytes())
    }

    pub(in crate::engine) fn scales(&self) -> Binding<'_> {
        let bytes = self.buffer.size() - self.scales_at;
        let binding = Binding::range(&self.buffer, self.scales_at, bytes);
        binding.holding(self.format.scale_bytes(self.all_units()))
    }

    fn all_units(&self) -> u64 {
        u64::from(self.rows) * u64::from(self.units)
    }
}
