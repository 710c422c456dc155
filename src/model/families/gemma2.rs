//! Gemma 2 (arXiv 2408.00118): Llama's layers with GeGLU, soft-caps, norms after attention and feed-forward networks too, a window in
//! every other layer, and embeddings that are multiplied by the root of their length.

use super::description::{Description, Key, key};
use super::{Traits, grouped, llama_like, sliding};
use crate::Result;
use crate::attention::Activation;
use crate::model::config::{AttentionConfig, Grouped, ModelConfig};
use crate::model::file::ModelFile;

const SOFTCAP: Key = key("attn_logit_softcapping", "attn_logit_softcapping");
const LOGIT_SOFTCAP: Key = key("final_logit_softcapping", "final_logit_softcapping");
const SCALED_BY: Key = key("", "query_pre_attn_scalar");
/// What queries are scaled by where a `config.json` does not say.
const USUAL_SCALED_BY: u32 = 256;
/// Layers of the one published model whose queries are not scaled by the length of a head: a GGUF file does not tell otherwise.
const LAYERS_OF_27B: u32 = 46;

pub(super) fn read(file: &ModelFile, description: Description<'_>) -> Result<ModelConfig> {
    description.must_be_off("use_bidirectional_attention")?;
    let traits = Traits { activation: Activation::Gelu, ..Traits::default() };
    let config = llama_like(file, description, "gemma2", traits)?;
    let heads = grouped(description, traits)?;
    let scaled_by = match description.is_json() {
        true => description.opt_size(SCALED_BY)?.unwrap_or(USUAL_SCALED_BY),
        false if config.layers == LAYERS_OF_27B => config.hidden / heads.q_heads,
        false => heads.head_dim,
    };
    let heads = Grouped { scaled_by, softcap: softcap(description, SOFTCAP, 50.0)?, ..heads };
    Ok(ModelConfig {
        attention: AttentionConfig::Grouped(heads),
        // Converters to GGUF add it.
        norm_offset: if description.is_json() { 1.0 } else { 0.0 },
        post_norms: true,
        // As in f32; where transformers runs a model in bf16 it rounds this too.
        embedding_factor: (config.hidden as f32).sqrt(),
        logit_softcap: softcap(description, LOGIT_SOFTCAP, 30.0)?,
        sliding_window: sliding::every_other(description, config.layers)?,
        ..config
    })
}

// The usual one where nothing is said.
fn softcap(description: Description<'_>, key: Key, usual: f32) -> Result<Option<f32>> {
    if description.is_null(key) {
        return Ok(None);
    }
    Ok(Some(description.opt_positive(key)?.unwrap_or(usual)))
}
