//! Models: what holds them, their families, their text and their generation.

#[cfg(feature = "text")]
pub(crate) mod chat;
pub(crate) mod config;
mod families;
pub(crate) mod file;
pub(crate) mod folder;
pub(crate) mod gguf;
mod json_file;
mod latents;
pub(crate) mod logits;
#[cfg(feature = "measure")]
mod random;
pub(crate) mod rope;
pub(crate) mod sampler;
pub(crate) mod tensors;
#[cfg(feature = "text")]
pub(crate) mod tokenizer;

#[cfg(feature = "text")]
pub use chat::{ChatTemplate, Message};
pub use config::ModelConfig;
pub use file::ModelFile;
pub use rope::{RopeChange, RopeKind};
#[cfg(feature = "text")]
pub use sampler::{Logprob, Logprobs, SuggestedSampling};
pub use sampler::{Past, Sampler, SamplerSettings, random_seed};
#[cfg(feature = "text")]
pub use tokenizer::{Decoder, Tokenizer};

// What is in files, for those who look into them.
#[cfg(feature = "measure")]
pub use file::Source;
#[cfg(feature = "measure")]
pub use folder::{Folder, shards};
#[cfg(feature = "measure")]
pub use gguf::{Array, Gguf, TensorInfo, Value};
#[cfg(feature = "measure")]
pub use random::RandomModel;
#[cfg(feature = "measure")]
pub use rope::{Rope, RopeScaling, Rotations};
#[cfg(feature = "measure")]
pub use sampler::Range;
#[cfg(feature = "measure")]
pub use tokenizer::{Piece, Vocabulary};
