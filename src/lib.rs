//! Two-level sparse attention (AsyncTLS, arXiv 2604.07815) for long contexts on wgpu.
#![warn(missing_docs)]

pub mod attention;
pub mod conformance;
pub mod contract;
pub mod engine;
mod error;
#[cfg(feature = "text")]
pub mod eval;
mod file;
pub mod gpu;
pub mod kernels;
pub mod kv;
pub mod model;
pub mod reference;
pub mod subject;
pub mod units;
pub mod utf8;

pub use error::{Error, Result};
/// The version of wgpu whose devices and buffers this crate takes.
pub use wgpu;
