//! Opening a device and loading a model onto it, with times.

use super::fit::Plan;
use super::progress::{bar, spinner};
use super::terminal::{note, size};
use asynctls::Result;
use asynctls::engine::Engine;
use asynctls::gpu::{Adapter, Disable, Gpu, GpuOptions, adapters};
use std::time::{Duration, Instant};

/// An open device.
pub struct Machine {
    /// The device.
    pub gpu: Gpu,
    /// Its memory, where that can be told.
    pub memory: Option<Memory>,
    /// How long opening took.
    pub time: Duration,
}

impl Machine {
    /// Opens the adapter that was asked for, or the best one.
    pub fn open(request: Option<&str>) -> Result<Self> {
        Self::open_with(request, GpuOptions::default())
    }

    /// The same, with options besides those of the environment.
    pub fn open_with(request: Option<&str>, options: GpuOptions) -> Result<Self> {
        let began = Instant::now();
        let disable = Disable::from_env()?;
        let here = pollster::block_on(adapters());
        let adapter = Adapter::choose(&here, request)?;
        let options = GpuOptions { disable, ..options };
        let gpu = pollster::block_on(Gpu::open(&adapter, options))?;
        if gpu.is_cpu() {
            let label = gpu.label();
            note(&format!(
                "note: {label} is a CPU, many times slower than a GPU; `asynctls adapters` lists what is here, and --adapter \
                 chooses"
            ));
        }
        let memory = adapter.free_memory_bytes().map(|bytes| Memory::of(&adapter, bytes));
        Ok(Self { gpu, memory, time: began.elapsed() })
    }
}

/// CPU memory that is taken besides what is planned: 103 to 113 MB were seen with llvmpipe, at contexts from 64 to 8,192 tokens.
const BESIDES: u64 = 128 << 20;

/// GPU memory to make do with, and who says so.
#[derive(Clone, Debug)]
pub struct Memory {
    /// Bytes.
    pub bytes: u64,
    /// Whose limit it is, as in "`vulkan:x has 8.00 GB`".
    pub whose: String,
    /// Whether it is CPU memory.
    pub is_shared: bool,
}

impl Memory {
    fn of(adapter: &Adapter, bytes: u64) -> Self {
        let label = adapter.label();
        let whose = match (adapter.shares_memory(), adapter.memory_bytes()) {
            (true, _) => format!("{label} shares CPU memory, of which this process may take"),
            (false, Some(all)) if bytes < all / 10 * 9 => {
                format!("{label}, which has {} in all, has free", size(all))
            }
            (false, _) => format!("{label} has"),
        };
        // Shared memory also holds this program and the driver.
        let besides = if adapter.shares_memory() { BESIDES } else { 0 };
        Self { bytes: bytes.saturating_sub(besides), whose, is_shared: adapter.shares_memory() }
    }

    /// The memory that the user allows.
    pub fn allowed(bytes: u64) -> Self {
        Self { bytes, whose: "--gpu-memory allows".into(), is_shared: false }
    }
}

/// A loaded model, and where the time went.
pub struct Loaded {
    /// The model.
    pub engine: Engine,
    /// Loading, without the compilation of kernels.
    pub load: Duration,
}

/// Loads what was planned.
pub fn load(gpu: Gpu, plan: Plan<'_>, stats: bool) -> Result<Loaded> {
    if stats {
        note(&format!(
            "kernels: {} on {}, prompts in chunks of {} tokens, steps spread over {} workgroups",
            gpu.tier().name,
            gpu.label(),
            plan.options.chunk,
            plan.options.target_workgroups
        ));
    }
    let began = Instant::now();
    let total = plan.file.loaded_bytes();
    let mut bar = bar("loading", total, true);
    let engine = pollster::block_on(Engine::load(gpu, plan.file, plan.options, &mut |bytes| {
        bar.inc(bytes);
        // The weights are there; the rest is another kind of work.
        if bar.position() >= total {
            bar = spinner("compiling kernels");
        }
    }));
    drop(bar);
    let engine = engine?;
    let load = began.elapsed().saturating_sub(engine.gpu.compile_time());
    if stats {
        note(&format!(
            "loaded in {:.2} s; compiling pipelines took {:.2} s more",
            load.as_secs_f64(),
            engine.gpu.compile_time().as_secs_f64()
        ));
    }
    Ok(Loaded { engine, load })
}
