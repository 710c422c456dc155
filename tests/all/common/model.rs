//! The real model on this machine's test adapter.

use asynctls::engine::{Engine, EngineOptions};
use asynctls::gpu::Gpu;
use asynctls::model::ModelFile;
use std::path::PathBuf;

pub use super::device::{gpu, own_gpu, prefill, tier};

/// Where `tools/setup model` puts the model, or what `ASYNCTLS_MODEL` names.
pub fn model_path() -> PathBuf {
    std::env::var_os("ASYNCTLS_MODEL")
        .map_or_else(|| ".models/SmolLM2-135M-Instruct.Q4_1.gguf".into(), PathBuf::from)
}

/// The model with room for `context` tokens.
pub fn engine(gpu: Gpu, context: u32, change: impl FnOnce(&mut EngineOptions)) -> Engine {
    let file = ModelFile::open(&model_path()).expect("the model: run tools/setup model");
    let mut options = EngineOptions::new(&gpu, context);
    change(&mut options);
    pollster::block_on(Engine::load(gpu, &file, options, &mut |_| ())).expect("a loaded model")
}
