//! The GPU: choosing an adapter, opening a device, assembling shaders, running pipelines and reading back.

mod adapter;
mod buffers;
mod clock;
mod device;
mod host_memory;
mod pipeline;
mod reflect;
mod repeat;
mod shader;
mod shader_files;
mod tier;
mod turns;

pub use adapter::{Adapter, Probe, adapters, probe};
pub(crate) use buffers::buffers;
pub use clock::{Clock, TimeSpan};
pub use device::{DeviceFacts, Gpu, GpuOptions, OpenDevice};
pub use host_memory::host_memory_bytes;
#[cfg(test)]
pub(crate) use pipeline::completed;
pub use pipeline::{Binding, Op, Pipeline};
pub use reflect::{Access, Reflected, mismatch};
pub use shader::{Assembled, Constant, ShaderSpec, assemble};
pub use tier::{Disable, Tier};
