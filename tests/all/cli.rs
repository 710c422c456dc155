//! The program as its users run it, with the real model on this machine's test adapter.
//!
//! The model is SmolLM2-135M-Instruct.Q4_1.gguf: its path is in `ASYNCTLS_MODEL`, or `tools/setup model` puts it in
//! `.models/`. The adapter is `ASYNCTLS_ADAPTER`'s, else lavapipe.

mod batch;
mod bench;
#[cfg(feature = "server")]
mod bench_serve;
mod conformance;
mod describe;
mod documents;
mod eval;
mod eval_places;
mod folders;
mod generate;
#[cfg(feature = "hub")]
mod hub;
#[cfg(feature = "hub")]
mod hub_server;
mod interactive;
mod interrupt;
mod json;
mod logits;
mod not_numbers;
pub mod program;
mod refused;
mod rope;
mod sampling;
mod session;
#[cfg(unix)]
mod terminal;
pub mod tiny;
mod vain;
