//! Models: the file reader, the tokenizer, the architecture and generation.

#[cfg(feature = "text")]
pub mod chat;
pub mod gguf;
pub mod llama;
pub mod sampler;
#[cfg(feature = "text")]
pub mod tokenizer;
pub(crate) mod weights;
