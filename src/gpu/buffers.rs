//! Buffers by the rows of a memory plan.

use super::device::Gpu;
use crate::memory::{Row, Usage};
use crate::{Error, Result};

impl Gpu {
    /// A buffer of this row: of its count the next.
    ///
    /// # Errors
    /// As [`Gpu::buffer`].
    pub(crate) async fn allocate(&self, row: &Row) -> Result<wgpu::Buffer> {
        let usage = match row.usage {
            Usage::Storage => Self::STORAGE,
            Usage::Upload => wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC,
            Usage::ReadBack => wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            Usage::Plain => return Err(Error::Gpu(format!("{} is no buffer", row.what))),
        };
        self.buffer_mapped(&row.what, row.bytes, usage, row.usage == Usage::Upload).await
    }

    /// A buffer of this row that holds `data`.
    ///
    /// # Errors
    /// As [`Gpu::buffer`].
    pub(crate) async fn allocate_with(&self, row: &Row, data: &[u8]) -> Result<wgpu::Buffer> {
        let buffer = self.allocate(row).await?;
        self.write(&buffer, 0, data);
        Ok(buffer)
    }
}

/// Declares structs of buffers: first of the plan's rows, of which `allocate` makes the buffers, in the order of the fields.
/// No buffer is without a row.
macro_rules! buffers {
    ($(
        $(#[$meta:meta])*
        $visibility:vis struct $name:ident {
            $($(#[$field_meta:meta])* $field:ident,)*
        }
    )*) => {$(
        $(#[$meta])*
        $visibility struct $name<B = wgpu::Buffer> {
            $($(#[$field_meta])* pub(crate) $field: B,)*
        }

        impl $name<$crate::memory::Row> {
            /// Every row.
            pub(crate) fn rows(&self) -> impl Iterator<Item = &$crate::memory::Row> {
                [$(&self.$field,)*].into_iter()
            }

            /// Makes the buffers.
            pub(crate) async fn allocate(&self, gpu: &$crate::gpu::Gpu) -> $crate::Result<$name> {
                Ok($name { $($field: gpu.allocate(&self.$field).await?,)* })
            }
        }
    )*};
}

pub(crate) use buffers;
