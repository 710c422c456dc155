//! Llama: grouped-query attention, SwiGLU, no biases.

use super::description::Description;
use super::{CONTEXT, EPSILON, EXPERTS, FFN, HIDDEN, LAYERS, grouped, no_biases, vocabulary};
use crate::model::config::{AttentionConfig, ModelConfig};
use crate::model::file::ModelFile;
use crate::model::rope::Rope;
use crate::{Error, Result};

pub(super) fn read(file: &ModelFile, description: Description<'_>) -> Result<ModelConfig> {
    no_biases(file)?;
    if let Some(experts) = description.opt_number(EXPERTS)?.filter(|&experts| experts > 0) {
        return Err(Error::Model(format!(
            "the model has {experts} experts, but Llama's are not supported"
        )));
    }
    let heads = grouped(description, false)?;
    let (vocabulary, tied) = vocabulary(file, description)?;
    Ok(ModelConfig {
        architecture: "llama".into(),
        layers: description.size(LAYERS)?,
        hidden: description.size(HIDDEN)?,
        vocabulary,
        context_length: description.size(CONTEXT)?,
        epsilon: description.positive(EPSILON)?,
        tied,
        attention: AttentionConfig::Grouped(heads),
        rope: Rope {
            base: description.rope_base()?,
            dims: heads.head_dim,
            // GGUF's converter permutes Wq and Wk so that pairs are neighbours.
            interleaved: !description.is_json(),
            scaling: description.rope_scaling(heads.head_dim)?,
        },
        ffn: description.size(FFN)?,
        experts: None,
    })
}
