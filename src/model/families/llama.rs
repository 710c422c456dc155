//! Llama: grouped-query attention, SwiGLU, no biases.

use super::description::Description;
use super::{EXPERTS, Heads, llama_like, sliding};
use crate::model::config::ModelConfig;
use crate::model::file::ModelFile;
use crate::{Error, Result};

pub(super) fn read(file: &ModelFile, description: Description<'_>) -> Result<ModelConfig> {
    for key in EXPERTS {
        if let Some(experts) = description.opt_number(key)?.filter(|&experts| experts > 0) {
            return Err(Error::Model(format!(
                "the model has {experts} experts, but Llama's are not supported"
            )));
        }
    }
    // GGUF's converter permutes Wq and Wk so that rotary pairs are neighbours.
    let heads = Heads { interleaved: !description.is_json(), ..Heads::default() };
    let config = llama_like(file, description, "llama", heads)?;
    if description.is_json() {
        sliding::nowhere(description)?;
        return Ok(config);
    }
    // A Mistral's.
    let sliding_window = sliding::everywhere(description, config.layers)?;
    Ok(ModelConfig { sliding_window, ..config })
}
