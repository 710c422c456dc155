//! Every integration test but the conformance cases, in one binary that is linked once: `cargo test --test all MODULE::`.

mod common;

#[cfg(feature = "cli")]
mod api;
mod cli;
mod dequantise;
#[cfg(feature = "text")]
mod divergence;
#[cfg(feature = "text")]
mod eval_tasks;
#[cfg(feature = "cli")]
mod examples;
mod floors;
mod folders;
#[cfg(feature = "cli")]
mod generator;
mod gguf;
#[cfg(feature = "text")]
mod grammar;
#[cfg(feature = "cli")]
mod limits;
mod memory;
#[cfg(feature = "text")]
mod needle;
mod not_finite;
mod offload;
mod operator;
mod quantise;
mod redone;
mod rewound;
#[cfg(feature = "text")]
mod selectors;
#[cfg(feature = "text")]
mod serve;
#[cfg(feature = "server")]
mod server;
mod session;
mod shared_device;
mod smollm2;
mod steps;
#[cfg(feature = "text")]
mod text;
mod tiny_models;
#[cfg(feature = "text")]
mod tokenizers;
mod waits;

use common::peak_memory::PeakMemory;

// Counts by thread what tests of files allocate.
#[global_allocator]
static ALLOCATOR: PeakMemory = PeakMemory;
