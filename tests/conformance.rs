//! Every conformance case on every adapter of this machine, one trial each.
//!
//! `ASYNCTLS_TEST_ADAPTERS` lists what must be here (default: lavapipe through Vulkan, llvmpipe through GL and
//! SwiftShader through Vulkan); one that is not is a failed trial, never a silent skip. A sample runs on WebGPU itself, under Dawn and
//! in a browser; where these are not installed, that is counted as ignored.

#[path = "conformance/web.rs"]
mod web;

use asynctls::conformance::{About, Choice, KNOWN, Outcome, Runner, Trial, judge, trials};
use asynctls::gpu::{Adapter, Disable, adapters};
use libtest_mimic::{Arguments, Failed};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

const EXPECTED: &str = "vulkan:llvmpipe,gl:llvmpipe,vulkan:swiftshader";

/// Whether a trial could come out otherwise than others of these adapters do.
fn is_worth_it(trial: &Trial, adapter: &Adapter) -> bool {
    match trial.mode.name {
        // Checks are compiled in by naga, the same for every backend: one adapter of a tier does.
        "checked" => {
            adapter.info.backend == wgpu::Backend::Vulkan
                && (adapter.info.name.contains("llvmpipe") || has_matrices(trial))
        }
        // What follows is a matter of shaders, of which SwiftShader, the slowest here, has none of its own: llvmpipe runs
        // its products through GL, and its reductions over subgroups.
        "reversed" | "portable" => !adapter.info.name.contains("SwiftShader"),
        _ => true,
    }
}

fn has_matrices(trial: &Trial) -> bool {
    asynctls::kernels::has_matrix_units(trial.tier)
}

/// Whether a trial runs in the gate too, of the case with this number: as the engine runs, but on SwiftShader and through llvmpipe's
/// GL, which takes one case at a time. Of these and of other modes a third does, of GL another one.
fn is_in_the_gate(trial: &Trial, adapter: &Adapter, case: usize) -> bool {
    let is_gl = adapter.info.backend == wgpu::Backend::Gl;
    let is_slow = adapter.info.name.contains("SwiftShader")
        || is_gl && adapter.info.name.contains("llvmpipe");
    trial.mode.name == "trusted" && !is_slow || case % 3 == usize::from(is_gl)
}

/// An adapter, and what is to be said of it at the end.
struct Here {
    request: String,
    runner: Runner,
    about: About,
    /// A GL context belongs to one thread at a time, and its devices share one.
    turn: Option<Arc<Mutex<()>>>,
    /// Reasons why cases cannot run, with how many cannot.
    unsupported: Mutex<BTreeMap<String, usize>>,
}

impl Here {
    fn run(&self, trial: &Trial) -> Result<(), Failed> {
        let turn = self.turn.as_ref();
        let _turn = turn.map(|gl| gl.lock().unwrap_or_else(PoisonError::into_inner));
        let mut row = pollster::block_on(self.runner.run(trial, false)).row;
        judge(KNOWN, &self.about, &mut row);
        let detail = row.detail.unwrap_or_default();
        match row.outcome {
            Outcome::Passed | Outcome::KnownFailure => Ok(()),
            Outcome::Unsupported => {
                let mut unsupported =
                    self.unsupported.lock().unwrap_or_else(PoisonError::into_inner);
                *unsupported.entry(detail).or_default() += 1;
                Ok(())
            }
            Outcome::Failed | Outcome::Flaky => Err(Failed::from(detail)),
        }
    }
}

fn main() {
    let arguments = Arguments::from_args();
    let expected = std::env::var("ASYNCTLS_TEST_ADAPTERS").unwrap_or_else(|_| EXPECTED.into());
    let adapters = pollster::block_on(adapters());
    let wants_all = std::env::var("ASYNCTLS_TEST_TRIALS").is_ok_and(|trials| trials == "all");
    let mut ours = Vec::new();
    let mut all = Vec::new();
    let ignored = |name| {
        let missing = || Err(Failed::from("it is not run here"));
        (0, libtest_mimic::Trial::test(name, missing).with_ignored_flag(true))
    };
    let gl: Arc<Mutex<()>> = Arc::default();
    for request in expected.split(',').filter(|r| !r.is_empty()) {
        let adapter = match Adapter::choose(&adapters, Some(request)) {
            Ok(adapter) => adapter,
            Err(error) => {
                let missing = move || Err(Failed::from(error.to_string()));
                let name = format!("{request} is here");
                all.push((0, libtest_mimic::Trial::test(name, missing)));
                continue;
            }
        };
        let here = Arc::new(Here {
            request: request.to_owned(),
            runner: Runner::new(adapter.clone(), Disable::default()),
            about: About::new(&adapter, Disable::default()),
            turn: (adapter.info.backend == wgpu::Backend::Gl).then(|| gl.clone()),
            unsupported: Mutex::default(),
        });
        ours.push(here.clone());
        let trials = Choice::default().of(trials(&adapter, Disable::default()));
        if !trials.iter().any(has_matrices) {
            // Counted as ignored: nothing here runs the kernels that need such an adapter.
            let skipped = trials
                .iter()
                .filter(|trial| trial.mode.name == "trusted" && trial.case.uses_matrices())
                .count();
            let name = format!(
                "{request} has no cooperative matrices for {skipped} cases of kernels that use them"
            );
            all.push(ignored(name));
        }
        // Each case's are neighbours, and begin with the one mode that every case runs in.
        let (mut place, mut left_out) = (0, 0);
        for trial in trials {
            place += usize::from(trial.mode.name == "trusted");
            if !is_worth_it(&trial, &adapter) {
                continue;
            }
            if !wants_all && !is_in_the_gate(&trial, &adapter, place) {
                left_out += 1;
            } else {
                let here = here.clone();
                let name = format!("{request} {}", trial.name());
                all.push((place, libtest_mimic::Trial::test(name, move || here.run(&trial))));
            }
        }
        if left_out > 0 {
            all.push(ignored(format!(
                "{request} leaves out {left_out} trials: ASYNCTLS_TEST_TRIALS=all"
            )));
        }
    }
    all.extend(web::trials().into_iter().map(|trial| (0, trial)));
    // Case by case rather than adapter by adapter: threads that would wait for GL's turn find other work.
    all.sort_by_key(|(place, _)| *place);
    let all = all.into_iter().map(|(_, trial)| trial).collect();
    let conclusion = libtest_mimic::run(&arguments, all);
    for here in ours {
        let unsupported = here.unsupported.lock().unwrap_or_else(PoisonError::into_inner);
        for (why, count) in unsupported.iter() {
            eprintln!("unsupported: {count} cases of {}: {why}", here.request);
        }
    }
    conclusion.exit();
}
