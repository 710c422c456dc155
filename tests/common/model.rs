//! The real model on this machine's test adapter.

use asynctls::Result;
use asynctls::engine::{Engine, EngineOptions, Output, Session, Want};
use asynctls::gpu::{Adapter, Disable, Gpu, GpuOptions, adapters};
use asynctls::model::ModelFile;
use std::path::PathBuf;

/// Where `tools/setup model` puts the model, or what `ASYNCTLS_MODEL` names.
pub fn model_path() -> PathBuf {
    std::env::var_os("ASYNCTLS_MODEL")
        .map_or_else(|| ".models/SmolLM2-135M-Instruct.Q4_1.gguf".into(), PathBuf::from)
}

/// A device on the adapter that model tests run on: `ASYNCTLS_ADAPTER`, else lavapipe.
pub fn gpu(options: GpuOptions) -> Gpu {
    let request = std::env::var("ASYNCTLS_ADAPTER").unwrap_or_else(|_| "vulkan:llvmpipe".into());
    let here = pollster::block_on(adapters());
    let adapter = Adapter::choose(&here, Some(&request)).expect("the test adapter");
    let options = GpuOptions { disable: Disable::from_env().expect("ASYNCTLS_DISABLE"), ..options };
    pollster::block_on(Gpu::open(&adapter, options)).expect("a device")
}

/// The model with room for `context` tokens.
pub fn engine(gpu: Gpu, context: u32, change: impl FnOnce(&mut EngineOptions)) -> Engine {
    let file = ModelFile::open(&model_path()).expect("the model: run tools/setup model");
    let mut options = EngineOptions::new(&gpu, context);
    change(&mut options);
    pollster::block_on(Engine::load(gpu, &file, options, &mut |_| ())).expect("a loaded model")
}

/// A prompt, to the end.
pub fn prefill(
    engine: &Engine,
    session: &mut Session,
    tokens: &[u32],
    want: Want,
) -> Result<Output> {
    pollster::block_on(engine.prefill(session, tokens, want, &mut |_| true))
}
