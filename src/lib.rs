//! Two-level sparse attention (AsyncTLS, arXiv 2604.07815) for long contexts on wgpu.
//!
//! | feature | for | modules |
//! |---|---|---|
//! | none | who has a device and buffers, and wants attention | [`operator`], [`attention`], [`gpu`] |
//! | `engine` | who runs models: files, the KV cache, steps of many sessions | `engine`, `model`, `formats` |
//! | `text` | who wants text: tokenizers, chats, answers piece by piece, many at a time | `generate`, `serve` |
//! | `server` | who wants them over HTTP | `server` |
//!
//! What `conformance`, `measure` and `cli` add is for this project's checks, measurements and program: it changes as they do.
//!
//! `engine` runs a whole model: open a device, load a file, prefill a prompt, decode tokens.
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
//! use asynctls::operator::{Batch, Codes, Decode, Kv, Limits, Options, Select, Selector, Sequence, Tensors};
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
//!         kv: Kv::Joined(vec![kv.as_entire_buffer_binding()]),
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
mod error;
pub mod gpu;
mod memory;
pub mod operator;

// Whole models.
#[cfg(feature = "engine")]
pub mod engine;
#[cfg(any(feature = "engine", feature = "conformance"))]
pub mod formats;
#[cfg(not(any(feature = "engine", feature = "conformance")))]
mod formats;
#[cfg(feature = "text")]
pub mod generate;
#[cfg(feature = "engine")]
mod kv;
#[cfg(feature = "engine")]
pub mod model;
#[cfg(feature = "text")]
pub mod serve;
#[cfg(feature = "server")]
pub mod server;

// Kernels one by one, what a selection loses, and what messages share: for those who check or measure them, and for the program.
#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "conformance")]
pub mod contract;
#[cfg(not(feature = "conformance"))]
mod contract;
#[cfg(feature = "measure")]
pub mod eval;
#[cfg(feature = "cli")]
pub mod file;
#[cfg(not(feature = "cli"))]
mod file;
#[cfg(feature = "conformance")]
pub mod kernels;
#[cfg(not(feature = "conformance"))]
mod kernels;
#[cfg(feature = "conformance")]
pub mod reference;
#[cfg(feature = "cli")]
pub mod subject;
#[cfg(not(feature = "cli"))]
mod subject;
#[cfg(feature = "cli")]
pub mod units;
#[cfg(not(feature = "cli"))]
mod units;
#[cfg(feature = "cli")]
pub mod utf8;
#[cfg(not(feature = "cli"))]
mod utf8;

#[cfg(not(feature = "conformance"))]
use contract::{bindings, words};
pub use error::{Error, Result};
/// The version of wgpu whose devices and buffers this crate takes.
pub use wgpu;
