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
pub use kv::{HeadFormat, KvType};
pub use pack::{Packed, pack_row};
pub use quantise::Quantise;
pub use tensor_type::{Block, TensorType};
pub use weight_format::WeightFormat;
