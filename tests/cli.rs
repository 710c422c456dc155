//! The program as its users run it, with the real model on this machine's test adapter.
//!
//! The model is SmolLM2-135M-Instruct.Q4_1.gguf: its path is in `ASYNCTLS_MODEL`, or `tools/setup model` puts it in
//! `.models/`. The adapter is `ASYNCTLS_ADAPTER`'s, else lavapipe.
#![cfg(feature = "cli")]

#[path = "common/gguf_builder.rs"]
mod gguf_builder;

#[path = "cli/bench.rs"]
mod bench;
#[path = "cli/describe.rs"]
mod describe;
#[path = "cli/documents.rs"]
mod documents;
#[path = "cli/eval.rs"]
mod eval;
#[path = "cli/folders.rs"]
mod folders;
#[path = "cli/generate.rs"]
mod generate;
#[cfg(feature = "hub")]
#[path = "cli/hub.rs"]
mod hub;
#[cfg(feature = "hub")]
#[path = "cli/hub_server.rs"]
mod hub_server;
#[path = "cli/interactive.rs"]
mod interactive;
#[path = "cli/interrupt.rs"]
mod interrupt;
#[path = "cli/json.rs"]
mod json;
#[path = "cli/logits.rs"]
mod logits;
#[path = "cli/not_numbers.rs"]
mod not_numbers;
#[path = "cli/program.rs"]
mod program;
#[path = "cli/refused.rs"]
mod refused;
#[path = "cli/rope.rs"]
mod rope;
#[path = "cli/sampling.rs"]
mod sampling;
#[path = "cli/session.rs"]
mod session;
#[cfg(unix)]
#[path = "cli/terminal.rs"]
mod terminal;
#[path = "cli/tiny.rs"]
mod tiny;
#[path = "cli/vain.rs"]
mod vain;
