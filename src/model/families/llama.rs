//! Llama: grouped-query attention, SwiGLU, no biases.

use super::description::Description;
use super::{EXPERTS, Traits, llama_like, sliding};
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
    let traits = Traits { interleaved: !description.is_json(), ..Traits::default() };
    let config = llama_like(file, description, "llama", traits)?;
    if description.is_json() {
        sliding::nowhere(description)?;
        return Ok(config);
    }
    // A Mistral's.
    let sliding_window = sliding::everywhere(description, config.layers)?;
    Ok(ModelConfig { sliding_window, ..config })
}
