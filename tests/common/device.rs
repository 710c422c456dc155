//! A device for engines, and what every engine is asked.

use asynctls::Result;
use asynctls::engine::{Engine, Output, Session, Want};
use asynctls::gpu::{Adapter, Disable, Gpu, GpuOptions, adapters};

/// A device on the adapter that model tests run on: `ASYNCTLS_ADAPTER`, else lavapipe.
pub fn gpu(options: GpuOptions) -> Gpu {
    let request = std::env::var("ASYNCTLS_ADAPTER").unwrap_or_else(|_| "vulkan:llvmpipe".into());
    let here = pollster::block_on(adapters());
    let adapter = Adapter::choose(&here, Some(&request)).expect("the test adapter");
    let options = GpuOptions { disable: Disable::from_env().expect("ASYNCTLS_DISABLE"), ..options };
    pollster::block_on(Gpu::open(&adapter, options)).expect("a device")
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
