//! How numbers are stored: the tensor types of files, the formats that kernels read, the stored types of the KV cache, and what
//! makes one of another. Nothing here knows a model, a kernel or a device.

pub(crate) mod blocks;
mod dequantise;
mod finite;
mod kv;
mod pack;
mod quantise;
mod tensor_type;
mod weight_format;

pub use kv::KvType;
pub use quantise::Quantise;

pub(crate) use finite::check_finite;

// Names of the inside, which those have who check and measure.
#[cfg_attr(feature = "measure", visibility::make(pub))]
pub(crate) use dequantise::dequantise;
#[cfg_attr(feature = "conformance", visibility::make(pub))]
pub(crate) use kv::HeadFormat;
#[cfg_attr(feature = "conformance", visibility::make(pub))]
pub(crate) use pack::{Packed, pack_row};
#[cfg_attr(feature = "measure", visibility::make(pub))]
pub(crate) use tensor_type::{Block, TensorType};
#[cfg_attr(feature = "conformance", visibility::make(pub))]
pub(crate) use weight_format::WeightFormat;
