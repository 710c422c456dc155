//! Two-level sparse attention (AsyncTLS, arXiv 2604.07815) for long contexts on wgpu.
//!
//! [`engine`] runs a whole model: open a device, load a file, prefill a prompt, decode tokens.
//!
//! ```no_run
//! use asynctls::attention::{Attention, Budget};
//! use asynctls::engine::{Engine, EngineOptions, Want};
//! use asynctls::gpu::{Adapter, Gpu, GpuOptions, adapters};
//! use asynctls::model::ModelFile;
//!
//! # async fn run() -> asynctls::Result<()> {
//! let adapter = Adapter::choose(&adapters().await, None)?;
//! let gpu = Gpu::open(&adapter, GpuOptions::default()).await?;
//! let file = ModelFile::open("model.gguf".as_ref())?;
//! let options = EngineOptions::new(&gpu, 8192);
//! let engine = Engine::load(gpu, &file, options, &mut |_| ()).await?;
//!
//! let mut session = engine.session()?;
//! let prompt = [1, 2, 3];
//! let mut token = engine.prefill(&mut session, &prompt, Want::Token, &mut |_| true).await?.token()?;
//! let attention = Attention::from(Budget::for_context(8192));
//! for _ in 0..64 {
//!     let made = engine.decode(&mut [(&mut session, token)], &attention, Want::Token).await?;
//!     token = made[0].token()?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`operator`] is the attention alone, on a device and over buffers of the caller's own.
//!
//! ```no_run
//! use asynctls::attention::{BlockScorer, Budget, Shape, TokenScorer, TwoLevel};
//! use asynctls::gpu::Gpu;
//! use asynctls::operator::{Batch, Codes, Decode, Limits, Options, Select, Selector, Sequence, Tensors};
//! use asynctls::wgpu;
//!
//! # async fn run(
//! #     adapter: wgpu::Adapter, device: wgpu::Device, queue: wgpu::Queue, channels: &[u32],
//! #     [queries, kv, codes, output]: [&wgpu::Buffer; 4],
//! # ) -> asynctls::Result<()> {
//! let gpu = Gpu::from_device(&adapter.into(), device.clone(), queue.clone(), Default::default())?;
//! let shape = Shape::new(8, 4, 128, false); // 8 KV heads, 4 query heads each, of 128 dimensions
//! let limits = Limits { rows: 1, sequences: 1, tokens: 32_768, cache_blocks: 512 };
//! let (blocks, tokens) = (BlockScorer::Codes, TokenScorer::Codes);
//! let selector = Selector::TwoLevel { blocks, tokens };
//! let decode = Decode::new(&gpu, Options::new(&gpu, shape, limits), selector).await?;
//! let layer = decode
//!     .bind(&Tensors {
//!         queries: queries.as_entire_buffer_binding(),
//!         kv: vec![kv.as_entire_buffer_binding()],
//!         output: output.as_entire_buffer_binding(),
//!         codes: Some(Codes { channels, codes: codes.as_entire_buffer_binding() }),
//!         summary: None,
//!     })
//!     .await?;
//!
//! // A decode step of a sequence of 30,000 tokens, whose index is built already but for block 467.
//! let table: Vec<u32> = (0..512).collect();
//! let sequence = Sequence { length: 30_000, rows: 1, blocks: &table, index: 467..468 };
//! let select = Select::TwoLevel(TwoLevel::new(Budget::for_context(32_768)));
//! let plan = decode.plan(&Batch { sequences: &[sequence], select })?;
//! let mut encoder = device.create_command_encoder(&Default::default());
//! let mut recording = decode.begin(&mut encoder, &plan)?;
//! let mut pass = recording.pass()?;
//! layer.index(&mut pass)?;
//! layer.attend(&mut pass)?;
//! drop(pass);
//! queue.submit([encoder.finish()]);
//! # Ok(())
//! # }
//! ```
#![warn(missing_docs)]
// Much is used by the engine, by measurements or by the conformance cases alone; what nobody uses is seen where all are there.
#![cfg_attr(
    not(all(feature = "measure", feature = "conformance")),
    allow(dead_code, unused_imports)
)]

pub mod attention;
#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "engine")]
pub mod engine;
mod error;
#[cfg(feature = "measure")]
pub mod eval;
mod file;
pub mod formats;
#[cfg(feature = "text")]
pub mod generate;
pub mod gpu;
#[cfg(feature = "engine")]
pub mod kv;
mod memory;
#[cfg(feature = "engine")]
pub mod model;
pub mod operator;
#[cfg(feature = "conformance")]
pub mod reference;
pub mod subject;
#[doc(hidden)]
pub mod units;
#[doc(hidden)]
pub mod utf8;

// Kernels one by one are for those who check or measure them.
#[cfg(feature = "conformance")]
pub mod contract;
#[cfg(not(feature = "conformance"))]
mod contract;
#[cfg(feature = "conformance")]
pub mod kernels;
#[cfg(not(feature = "conformance"))]
mod kernels;

pub use error::{Error, Result};
/// The version of wgpu whose devices and buffers this crate takes.
pub use wgpu;
