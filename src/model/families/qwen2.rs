//! Qwen2 and Qwen2.5 (arXiv 2407.10671, 2412.15115): Llama's layers with biases of queries, keys and values.

use super::description::{Description, key};
use super::{Heads, llama_like};
use crate::Result;
use crate::model::config::ModelConfig;
use crate::model::file::ModelFile;

pub(super) fn read(file: &ModelFile, description: Description<'_>) -> Result<ModelConfig> {
    description.must_be(key("attention.sliding_window", ""), 0)?;
    llama_like(file, description, "qwen2", Heads { biases: true, ..Heads::default() })
}
