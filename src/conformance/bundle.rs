//! A case as one JSON object that needs none of this program: dispatches with their WGSL, what buffers hold, and what has to come out.

mod shape;
mod store;

use super::record::script_of;
use super::rig::Format;
use super::script::{Check, Dispatch, Holds, Place, Script};
use super::translate::base64;
use super::trial::{Choice, Mode};
use super::{Case, MODES, Trial, cases};
use crate::gpu::{Access, Adapter, Assembled, Gpu, Tier, completed};
use crate::{Error, Result};
use shape::{Bound, Buffer, Bundle, Checked, Copied, Dispatched, Run};
pub use shape::{Needs, TierNeeds};
use std::collections::BTreeSet;
use std::sync::Arc;
use store::{Kernels, Store};

/// The version of a bundle's shape.
pub const BUNDLE: u32 = 2;

/// Bytes of a case's data above which it is left out.
const MOST_BYTES: usize = 8 << 20;

/// A case that was written down.
#[derive(Debug)]
pub struct Exported {
    /// The case's name, without a mode.
    pub case: String,
    /// Its kernel.
    pub kernel: &'static str,
    /// The names of its runs, without those of tiers.
    pub names: BTreeSet<String>,
    /// The bundle, or why there is none.
    pub bundle: std::result::Result<String, String>,
}

/// Whether WebGPU has what a tier needs.
fn is_standard(tier: &Tier) -> bool {
    !tier.features.intersects(wgpu::Features::all_experimental_mask())
}

/// The tiers that WebGPU has what they need for.
fn tiers() -> impl Iterator<Item = &'static Tier> {
    Tier::all().iter().filter(|tier| is_standard(tier))
}

/// The same, and what each needs.
pub fn tier_needs() -> Vec<TierNeeds> {
    tiers().map(|tier| TierNeeds { name: tier.name, needs: needs_of(tier) }).collect()
}

fn needs_of(tier: &Tier) -> Needs {
    let named =
        [(wgpu::Features::SUBGROUP, "subgroups"), (wgpu::Features::SHADER_F16, "shader-f16")];
    let has = |feature: &(wgpu::Features, _)| tier.features.contains(feature.0);
    Needs {
        features: named.into_iter().filter(has).map(|(_, name)| name).collect(),
        subgroup_size: tier.subgroup_size(),
        fallback: tier.emulates_lanes(),
        ..Needs::default()
    }
}

/// Devices that stand for tiers, on which cases are written down.
pub struct Exporter {
    devices: Vec<Gpu>,
    kernels: Kernels,
}

impl Exporter {
    /// Devices of an adapter, which runs nothing.
    ///
    /// # Errors
    /// Refusals of the adapter.
    pub async fn new(adapter: &Adapter) -> Result<Self> {
        let mut devices = Vec::new();
        for tier in tiers() {
            devices.push(Gpu::posing(adapter, tier).await?);
        }
        Ok(Self { devices, kernels: Kernels::default() })
    }

    /// The trials that are chosen, case by case.
    pub fn trials(choice: &Choice) -> Vec<Vec<Trial>> {
        let all = cases().into_iter().flat_map(|case| trials_of(Arc::new(case))).collect();
        let mut by_case: Vec<Vec<Trial>> = Vec::new();
        for trial in choice.of(all) {
            match by_case.last_mut().filter(|last| Arc::ptr_eq(&last[0].case, &trial.case)) {
                Some(last) => last.push(trial),
                None => by_case.push(vec![trial]),
            }
        }
        by_case
    }

    /// Writes a case's trials down.
    pub async fn export(&mut self, trials: &[Trial]) -> Exported {
        let case = &trials[0].case;
        if let Some(why) = beyond(case) {
            let (case, kernel, bundle) = (case.name(), case.kernel, Err(why));
            return Exported { case, kernel, names: BTreeSet::new(), bundle };
        }
        let (mut store, mut runs) = (Store::default(), Vec::new());
        let mut problem = None;
        for gpu in &self.devices {
            let of_tier: Vec<&Trial> = trials.iter().filter(|t| t.tier == gpu.tier()).collect();
            if of_tier.is_empty() {
                continue;
            }
            let (result, script) = script_of(case.run(gpu)).await;
            for trial in of_tier {
                match run(trial, &result, &script, (&mut self.kernels, &mut store)) {
                    Ok(run) => runs.push(run),
                    Err(why) => problem = Some(why),
                }
            }
        }
        let bundle = match problem {
            Some(why) => Err(why),
            None => text(case, store, runs),
        };
        let names = trials.iter().map(Trial::name).collect();
        Exported { case: case.name(), kernel: case.kernel, names, bundle }
    }
}

// Why a case cannot be written down, if so.
fn beyond(case: &Case) -> Option<String> {
    (case.kernel == "operator").then(|| "the operator records its kernels itself".into())
}

/// One trial, as a device has it.
pub(super) async fn of_trial(gpu: &Gpu, trial: &Trial) -> std::result::Result<String, String> {
    if let Some(why) = beyond(&trial.case) {
        return Err(why);
    }
    if !is_standard(trial.tier) {
        return Err(format!("WebGPU lacks what the tier {} needs", trial.tier.name));
    }
    let (result, script) = script_of(trial.case.run(gpu)).await;
    let (mut kernels, mut store) = (Kernels::default(), Store::default());
    let run = run(trial, &result, &script, (&mut kernels, &mut store))?;
    text(&trial.case, store, vec![run])
}

// A receiver runs the best of its tiers, with its lanes reversed too, and what needs nothing. It checks bounds always.
fn trials_of(case: Arc<Case>) -> Vec<Trial> {
    let mode = |name: &str| MODES.iter().find(|mode| mode.name == name).expect("a mode");
    let of = |(tier, mode): (_, &'static Mode)| Trial { case: case.clone(), mode, tier };
    let with_modes = |tier| {
        let reversed = case.shares_memory.then(|| (tier, mode("reversed")));
        [(tier, mode("trusted"))].into_iter().chain(reversed).map(of).collect::<Vec<_>>()
    };
    let last = tiers().last().expect("a tier that needs nothing");
    tiers().flat_map(with_modes).chain([of((last, mode("portable")))]).collect()
}

fn text(case: &Case, store: Store, runs: Vec<Run>) -> std::result::Result<String, String> {
    if store.bytes > MOST_BYTES {
        return Err(format!("its data are more than {} MiB", MOST_BYTES >> 20));
    }
    let bundle = Bundle {
        bundle: BUNDLE,
        case: case.name(),
        kernel: case.kernel,
        texts: store.texts,
        data: store.data.iter().map(|bytes| base64(bytes)).collect(),
        runs,
    };
    serde_json::to_string(&bundle).map_err(|e| e.to_string())
}

fn run(
    trial: &Trial,
    result: &Result<super::Verdict>,
    script: &Script,
    (kernels, store): (&mut Kernels, &mut Store),
) -> std::result::Result<Run, String> {
    let specs: Vec<_> = script.dispatches.iter().map(|dispatch| dispatch.spec.clone()).collect();
    let mut run = Run {
        name: trial.name(),
        mode: trial.mode.name,
        tier: trial.tier.name,
        variant: trial.variant(&specs),
        unsupported: None,
        needs: needs_of(trial.tier),
        buffers: Vec::new(),
        dispatches: Vec::new(),
        checks: Vec::new(),
    };
    match result {
        Err(Error::Unsupported { what, value, limit, .. }) => {
            run.unsupported = Some(format!("{what} is {value}, but {limit}"));
            return Ok(run);
        }
        Err(error) => return Err(error.to_string()),
        // What a case judges by itself is not in a bundle; what it compares is.
        Ok(_) => {}
    }
    if let Some(problem) = &script.problem {
        return Err(problem.clone());
    }
    if script.checks.is_empty() {
        return Err("what is right is judged by this program alone".into());
    }
    let mut most = |name, value: u64| {
        let limit = run.needs.limits.entry(name).or_default();
        *limit = value.max(*limit);
    };
    for buffer in &script.buffers {
        most("maxStorageBufferBindingSize", bytes_of(buffer));
    }
    for dispatch in &script.dispatches {
        let reversed = trial.mode.name == "reversed";
        let assembled = kernels.of(completed(&dispatch.spec, trial.tier, reversed))?;
        let (x, y, z) = dispatch.grid;
        most("maxComputeWorkgroupsPerDimension", x.max(y).max(z).into());
        most("maxComputeWorkgroupStorageSize", assembled.workgroup_bytes().into());
        let [x, y, z] = assembled.workgroup_size();
        most("maxComputeInvocationsPerWorkgroup", (x * y * z).into());
        most("maxComputeWorkgroupSizeX", x.into());
        run.dispatches.push(dispatched(dispatch, assembled, store)?);
    }
    for dispatched in &run.dispatches {
        let storage = dispatched.bindings.iter().filter(|bound| bound.kind != "uniform").count();
        let limit = run.needs.limits.entry("maxStorageBuffersPerShaderStage").or_default();
        *limit = (storage as u64).max(*limit);
        let text = &store.texts[dispatched.text];
        if text.contains("enable f16;") {
            run.needs.features.insert("shader-f16");
        }
        if text.contains("dot4") || text.contains("4xI8") || text.contains("4x8") {
            run.needs.language.insert("packed_4x8_integer_dot_product");
        }
    }
    run.buffers = script.buffers.iter().map(|buffer| of_buffer(buffer, store)).collect();
    run.checks = script.checks.iter().map(|check| checked(check, store)).collect();
    Ok(run)
}

// Bytes of a buffer: whole vec4s, one at least, as devices here have them.
fn bytes_of(buffer: &super::script::Buffer) -> u64 {
    (4 * buffer.words as u64).max(16).next_multiple_of(16)
}

fn of_buffer(buffer: &super::script::Buffer, store: &mut Store) -> Buffer {
    let (data, copy) = match &buffer.holds {
        Holds::Words(words) => (Some(store.words(words)), None),
        Holds::Poison => (None, None),
        &Holds::Copy(from, first_word) => {
            (None, Some(Copied { buffer: from, first_word, words: buffer.words }))
        }
    };
    Buffer { name: buffer.name, bytes: bytes_of(buffer), data, copy }
}

fn dispatched(
    dispatch: &Dispatch,
    assembled: &Assembled,
    store: &mut Store,
) -> std::result::Result<Dispatched, String> {
    let mut bindings = Vec::new();
    for variable in assembled.bindings() {
        let bound = dispatch.bindings.iter().find(|(name, _)| *name == variable.name);
        let (_, buffer) = bound.ok_or_else(|| format!("nothing is bound to {}", variable.name))?;
        let kind = match variable.access {
            Access::Uniform(_) => "uniform",
            Access::Read => "read-only-storage",
            Access::Write => "storage",
        };
        bindings.push(Bound { group: 0, binding: variable.number, kind, buffer: *buffer });
    }
    let (x, y, z) = dispatch.grid;
    Ok(Dispatched {
        file: dispatch.spec.file,
        text: store.text(for_webgpu(&assembled.text)),
        entry_point: "main",
        workgroups: [x, y, z],
        bindings,
    })
}

// That subgroups come together where all their lanes do is what cases with lanes reversed see; a browser's compiler cannot tell where each
// of them ends a loop for itself.
const SUBGROUPS: &str = "enable subgroups;\ndiagnostic(off, subgroup_uniformity);\n";

/// A kernel's text for WebGPU: what naga takes without a word, a browser's compiler wants to be told.
pub fn for_webgpu(text: &str) -> String {
    let uses_subgroups = text
        .lines()
        .any(|line| line.split("//").next().is_some_and(|code| code.contains("subgroup")));
    match uses_subgroups {
        true => format!("{SUBGROUPS}{text}"),
        false => text.to_owned(),
    }
}

fn checked(check: &Check, store: &mut Store) -> Checked {
    let (first_word, words) = match &check.words {
        Place::From(first) => (Some(*first), None),
        Place::Each(words) => (None, Some(store.words(words))),
    };
    Checked {
        part: check.part.clone(),
        buffer: check.buffer,
        first_word,
        words,
        format: match check.format {
            Format::F32 => "f32",
            Format::F16 => "f16",
            Format::U32 => "u32",
            Format::Bits(8) => "u8",
            Format::Bits(4) => "u4",
            Format::Bits(_) => "u2",
        },
        count: check.expected.len(),
        expected: store.numbers(&check.expected),
        tolerance: store.numbers(&check.tolerance),
        derivation: check.why.clone(),
    }
}
