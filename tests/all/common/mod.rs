//! What tests share: devices, the real model, small files.

pub mod device;
pub mod gguf_builder;
pub mod hex;
pub mod model;
pub mod own_process;
pub mod peak_memory;
pub mod steps;
