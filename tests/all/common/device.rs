//! A device for engines, and what every engine is asked.

use asynctls::Result;
use asynctls::attention::Attention;
use asynctls::engine::{Engine, EngineOptions, Output, Session, Want};
use asynctls::gpu::{Adapter, Disable, Gpu, GpuOptions, Tier, adapters};
use std::sync::OnceLock;

/// The adapter that model tests run on: `ASYNCTLS_ADAPTER`, else lavapipe.
pub fn adapter() -> Adapter {
    let request = std::env::var("ASYNCTLS_ADAPTER").unwrap_or_else(|_| "vulkan:llvmpipe".into());
    let here = pollster::block_on(adapters());
    Adapter::choose(&here, Some(&request)).expect("the test adapter")
}

fn disable() -> Disable {
    Disable::from_env().expect("ASYNCTLS_DISABLE")
}

/// The device on the test adapter that all tests of a process share, so that each kernel is compiled once.
pub fn gpu() -> Gpu {
    static GPU: OnceLock<Gpu> = OnceLock::new();
    GPU.get_or_init(|| own_gpu(GpuOptions::default())).share()
}

/// A device on the test adapter for one test: to be lost, or with other options.
pub fn own_gpu(options: GpuOptions) -> Gpu {
    let options = GpuOptions { disable: disable(), ..options };
    pollster::block_on(Gpu::open(&adapter(), options)).expect("a device")
}

/// The tier of the test adapter.
pub fn tier() -> &'static Tier {
    Tier::of(&adapter(), disable())
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

/// A decode step of one session.
pub fn step(
    engine: &Engine,
    session: &mut Session,
    token: u32,
    attention: &Attention,
    want: Want,
) -> Output {
    pollster::block_on(engine.decode(&mut [(session, token)], attention, want))
        .unwrap_or_else(|e| panic!("decode: {e}"))
        .remove(0)
}

/// The logits of a decode step.
pub fn decode(
    engine: &Engine,
    session: &mut Session,
    token: u32,
    attention: &Attention,
) -> Vec<f32> {
    step(engine, session, token, attention, Want::Logits).logits.remove(0)
}

/// Options for `sessions` sessions of a tiny model, whose index channels are chosen by the first `counted` tokens.
pub fn tiny_options(gpu: &Gpu, context: u32, sessions: u32, counted: u32) -> EngineOptions {
    let mut options = EngineOptions::new(gpu, context);
    options.block = 16;
    options.chunk = 64;
    options.sessions = sessions;
    options.total_tokens = u64::from(sessions) * u64::from(context);
    if let Some(index) = &mut options.index {
        index.stats_tokens = counted;
    }
    options
}
