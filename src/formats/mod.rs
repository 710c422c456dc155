//! How numbers are stored: the tensor types of files, the formats that kernels read, the stored types of the KV cache, and what
//! makes one of another. Nothing here knows a model, a kernel or a device.

pub(crate) mod blocks;
mod dequantise;
mod kv;
mod pack;
mod quantise;
mod tensor_type;
mod weight_format;

pub use dequantise::dequantise;
pub use kv::KvType;
pub use quantise::Quantise;
pub use tensor_type::{Block, TensorType};

// Names of the inside, which those have who check and measure.
#[cfg(feature = "conformance")]
pub use kv::HeadFormat;
#[cfg(not(feature = "conformance"))]
pub(crate) use kv::HeadFormat;
#[cfg(feature = "conformance")]
pub use pack::{Packed, pack_row};
#[cfg(not(feature = "conformance"))]
pub(crate) use pack::{Packed, pack_row};
#[cfg(feature = "conformance")]
pub use weight_format::WeightFormat;
#[cfg(not(feature = "conformance"))]
pub(crate) use weight_format::WeightFormat;
