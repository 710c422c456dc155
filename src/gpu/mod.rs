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
mod wait;

pub use adapter::{Adapter, Probe, adapters, probe};
pub(crate) use buffers::buffers;
pub use clock::{Clock, TimeSpan};
pub use device::{DeviceFacts, Gpu, GpuOptions, OpenDevice};
pub use host_memory::host_memory_bytes;
#[cfg(test)]
pub(crate) use pipeline::completed;
pub use tier::{Disable, Tier};
pub(crate) use wait::Waits;

// Names of the inside, which those have who check and measure.
#[cfg(feature = "conformance")]
pub use pipeline::{Binding, Op, Pipeline};
#[cfg(not(feature = "conformance"))]
pub(crate) use pipeline::{Binding, Op, Pipeline};
#[cfg(feature = "conformance")]
pub use reflect::{Access, Reflected, mismatch};
#[cfg(not(feature = "conformance"))]
pub(crate) use reflect::{Access, Reflected, mismatch};
#[cfg(feature = "conformance")]
pub use shader::{Assembled, Constant, ShaderSpec, assemble};
#[cfg(not(feature = "conformance"))]
pub(crate) use shader::{Assembled, Constant, ShaderSpec, assemble};
