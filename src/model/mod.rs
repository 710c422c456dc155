//! Models: what holds them, their families, their text and their generation.

#[cfg(feature = "text")]
pub mod chat;
pub mod config;
mod families;
pub mod file;
pub mod folder;
pub mod gguf;
mod json_file;
pub mod logits;
pub mod random;
pub mod rope;
pub mod sampler;
pub(crate) mod tensors;
#[cfg(feature = "text")]
pub mod tokenizer;

pub use config::ModelConfig;
pub use file::ModelFile;
