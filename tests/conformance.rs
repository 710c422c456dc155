//! Every conformance case on every adapter of this machine, one trial each.
//!
//! `ASYNCTLS_TEST_ADAPTERS` lists what must be here (default: lavapipe through Vulkan, llvmpipe through GL and
//! SwiftShader through Vulkan); one that is not is a failed trial, never a silent skip.

use asynctls::conformance::{Case, cases};
use asynctls::gpu::{Adapter, Disable, Gpu, GpuOptions, Tier, adapters};
use libtest_mimic::{Arguments, Failed, Trial};
use std::sync::{Arc, Mutex, OnceLock};

const EXPECTED: &str = "vulkan:llvmpipe,gl:llvmpipe,vulkan:swiftshader";

/// How the device is opened: every case runs in each mode that could change its result.
struct Mode {
    name: &'static str,
    options: GpuOptions,
    applies: fn(&Case, &Adapter) -> bool,
}

fn tier(adapter: &Adapter) -> &'static Tier {
    Tier::of(adapter, Disable::default())
}

fn modes() -> Vec<Mode> {
    let base = GpuOptions::default();
    let portable = Disable { subgroups: true, ..Disable::default() };
    let without_matrices = Disable { cooperative: true, ..Disable::default() };
    vec![
        Mode { name: "trusted", options: base, applies: |_, _| true },
        // Checks are compiled in by naga, the same for every backend: one adapter of a tier does.
        Mode {
            name: "checked",
            options: GpuOptions { checked: true, ..base },
            applies: |_, adapter| {
                adapter.info.backend == wgpu::Backend::Vulkan
                    && (adapter.info.name.contains("llvmpipe") || has_matrices(adapter))
            },
        },
        // What follows is a matter of shaders, of which SwiftShader, the slowest here, has none of its own: llvmpipe runs
        // its products through GL, and its reductions over subgroups.
        Mode {
            name: "reversed",
            options: GpuOptions { lanes_reversed: true, ..base },
            applies: |case, adapter| case.shares_memory && !is_swiftshader(adapter),
        },
        // What an adapter without subgroups runs.
        Mode {
            name: "portable",
            options: GpuOptions { disable: portable, ..base },
            applies: |_, adapter| tier(adapter).name != "portable" && !is_swiftshader(adapter),
        },
        Mode {
            name: "without matrices",
            options: GpuOptions { disable: without_matrices, ..base },
            applies: |case, adapter| has_matrices(adapter) && uses_matrices(case),
        },
    ]
}

fn is_swiftshader(adapter: &Adapter) -> bool {
    adapter.info.name.contains("SwiftShader")
}

fn has_matrices(adapter: &Adapter) -> bool {
    asynctls::kernels::has_matrix_units(tier(adapter))
}

// Whether a variant of the case's kernel uses cooperative matrices.
fn uses_matrices(case: &Case) -> bool {
    ["matmul", "prefill"].contains(&case.kernel)
}

fn main() {
    let arguments = Arguments::from_args();
    let expected = std::env::var("ASYNCTLS_TEST_ADAPTERS").unwrap_or_else(|_| EXPECTED.into());
    let here = pollster::block_on(adapters());
    let cases: Vec<Arc<Case>> = cases().into_iter().map(Arc::new).collect();
    let mut trials = Vec::new();
    // A GL context belongs to one thread at a time, and its devices share one.
    let gl: Arc<Mutex<()>> = Arc::default();
    for request in expected.split(',').filter(|r| !r.is_empty()) {
        let adapter = match Adapter::choose(&here, Some(request)) {
            Ok(adapter) => adapter,
            Err(error) => {
                let missing = move || Err(Failed::from(error.to_string()));
                trials.push((0, Trial::test(format!("{request} is here"), missing)));
                continue;
            }
        };
        if !has_matrices(&adapter) {
            // Counted as ignored: nothing here runs the kernels that need such an adapter.
            let skipped = cases.iter().filter(|case| uses_matrices(case)).count();
            let name = format!(
                "{request} has no cooperative matrices for {skipped} cases of matmul and prefill"
            );
            let missing = || Err(Failed::from("it has none"));
            trials.push((0, Trial::test(name, missing).with_ignored_flag(true)));
        }
        for mode in modes() {
            // One device a mode, opened by the first trial that needs it.
            let gpu: Arc<OnceLock<Result<Gpu, String>>> = Arc::default();
            for (place, case) in
                cases.iter().enumerate().filter(|(_, case)| (mode.applies)(case, &adapter))
            {
                let (gpu, case, adapter, options) =
                    (gpu.clone(), case.clone(), adapter.clone(), mode.options);
                let turn = (adapter.info.backend == wgpu::Backend::Gl).then(|| gl.clone());
                let trial =
                    Trial::test(format!("{request} {} {}", mode.name, case.name()), move || {
                        let _turn = turn
                            .as_ref()
                            .map(|gl| gl.lock().unwrap_or_else(|failed| failed.into_inner()));
                        let gpu = gpu.get_or_init(|| {
                            pollster::block_on(Gpu::open(&adapter, options))
                                .map_err(|e| e.to_string())
                        });
                        let gpu = gpu.as_ref().map_err(|e| Failed::from(e.clone()))?;
                        pollster::block_on(case.run(gpu))
                            .map_err(|e| Failed::from(e.to_string()))?
                            .map_err(Failed::from)
                    });
                trials.push((place, trial));
            }
        }
    }
    // Case by case rather than adapter by adapter: threads that would wait for GL's turn find other work.
    trials.sort_by_key(|(place, _)| *place);
    let trials = trials.into_iter().map(|(_, trial)| trial).collect();
    libtest_mimic::run(&arguments, trials).exit();
}
