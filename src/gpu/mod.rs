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

pub use adapter::{Adapter, adapters};
pub(crate) use buffers::buffers;
#[cfg(feature = "engine")]
pub use device::DeviceFacts;
pub use device::{Gpu, GpuOptions};
pub(crate) use host_memory::host_memory_bytes;
pub(crate) use pipeline::completed;
pub use tier::Disable;
pub(crate) use wait::Waits;

// Names of the inside, which those have who check and measure.
#[cfg_attr(feature = "measure", visibility::make(pub))]
pub(crate) use adapter::{Probe, probe};
pub(crate) use clock::Clock;
#[cfg_attr(feature = "measure", visibility::make(pub))]
pub(crate) use clock::TimeSpan;
#[cfg_attr(feature = "conformance", visibility::make(pub))]
pub(crate) use pipeline::{Binding, Op, Pipeline};
#[cfg_attr(feature = "conformance", visibility::make(pub))]
pub(crate) use reflect::{Access, Reflected, mismatch};
#[cfg_attr(feature = "conformance", visibility::make(pub))]
pub(crate) use shader::{Assembled, Constant, ShaderSpec, assemble};
#[cfg_attr(feature = "conformance", visibility::make(pub))]
pub(crate) use tier::Tier;
