//! Qwen2 and Qwen2.5 (arXiv 2407.10671, 2412.15115): Llama's layers with biases of queries, keys and values.

use super::description::Description;
use super::{Traits, llama_like, sliding};
use crate::Result;
use crate::model::config::ModelConfig;
use crate::model::file::ModelFile;

pub(super) fn read(file: &ModelFile, description: Description<'_>) -> Result<ModelConfig> {
    let traits = Traits { biases: true, ..Traits::default() };
    let config = llama_like(file, description, "qwen2", traits)?;
    let first = sliding::first_layer(description)?;
    let sliding_window = sliding::where_switched_on(description, config.layers, first)?;
    Ok(ModelConfig { sliding_window, ..config })
}
