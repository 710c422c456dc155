//! Mistral (arXiv 2310.06825): Llama's layers, in the first models with a sliding window in each. GGUF files carry it as `llama`.

use super::description::Description;
use super::{Traits, llama_like, sliding};
use crate::Result;
use crate::model::config::ModelConfig;
use crate::model::file::ModelFile;

pub(super) fn read(file: &ModelFile, description: Description<'_>) -> Result<ModelConfig> {
    let config = llama_like(file, description, "mistral", Traits::default())?;
    let sliding_window = sliding::everywhere(description, config.layers)?;
    Ok(ModelConfig { sliding_window, ..config })
}
