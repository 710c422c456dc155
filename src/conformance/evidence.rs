//! What a wrong result came from: the shaders, what the backend's compiler was given, and a bundle that runs without this program.

use super::Trial;
use super::record::{Difference, Dispatch, Record, finite};
use super::translate::{Given, translate};
use crate::gpu::{Access, Gpu, ShaderSpec, assemble, completed};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

/// What a wrong result came from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// The kernels that the device compiled for the case.
    pub shaders: Vec<Shader>,
    /// The case as one JSON object: each dispatch with its WGSL, bindings and inputs, and what is right.
    pub bundle: Option<String>,
    /// Why there is no bundle.
    pub left_out: Option<String>,
}

/// A kernel as it was compiled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shader {
    /// Its file under `shaders/`.
    pub file: String,
    /// The assembled text.
    pub wgsl: String,
    /// What was made of it for the backend's compiler.
    pub given: Given,
}

/// Bytes of a bundle's data above which it is left out of a report.
const MOST_BYTES: usize = 8 << 20;

#[derive(Serialize)]
struct Bundle {
    /// The version of this shape.
    bundle: u32,
    case: String,
    adapter: String,
    driver: String,
    dispatches: Vec<Run>,
    check: Option<Check>,
}

#[derive(Serialize)]
struct Run {
    file: &'static str,
    wgsl: String,
    entry_point: &'static str,
    workgroups: [u32; 3],
    bindings: Vec<Bound>,
}

#[derive(Serialize)]
struct Bound {
    group: u32,
    binding: u32,
    name: &'static str,
    kind: &'static str,
    bytes: usize,
    /// What the kernel finds, little-endian.
    base64: String,
}

#[derive(Serialize)]
struct Check {
    part: String,
    /// Where its elements are: a dispatch, a binding of it, and a word of that.
    dispatch: Option<usize>,
    binding: Option<&'static str>,
    first_word: Option<usize>,
    expected: Vec<Option<f64>>,
    tolerance: Vec<Option<f64>>,
    actual: Vec<Option<f64>>,
    actual_bits: Vec<u32>,
    derivation: String,
}

impl Evidence {
    /// Of a trial that was recorded with its data, on a device of its own.
    pub(super) fn new(gpu: &Gpu, trial: &Trial, record: Record) -> Self {
        let (backend, checked) =
            (gpu.info().backend, trial.mode.options(Default::default()).checked);
        let shader = |spec: ShaderSpec| {
            let wgsl = text(gpu, trial, &spec);
            let given = translate(&wgsl, backend, checked);
            Shader { file: spec.file.to_owned(), wgsl, given }
        };
        let shaders = gpu.compiled().into_iter().map(shader).collect();
        let words =
            |dispatch: &Dispatch| dispatch.bindings.iter().map(|b| b.1.len()).sum::<usize>();
        let bytes = 4 * record.dispatches.iter().map(words).sum::<usize>();
        let left_out = match (record.dispatches.is_empty(), bytes > MOST_BYTES) {
            (true, _) => Some("the case runs kernels through a layer above them".to_owned()),
            (_, true) => Some(format!("its inputs are {bytes} bytes")),
            _ => None,
        };
        let bundle = left_out.is_none().then(|| bundle(gpu, trial, &record));
        Self { shaders, bundle, left_out }
    }
}

fn text(gpu: &Gpu, trial: &Trial, spec: &ShaderSpec) -> String {
    let reversed = trial.mode.options(Default::default()).lanes_reversed;
    match assemble(&completed(spec, gpu.tier(), reversed)) {
        Ok(assembled) => assembled.text,
        Err(error) => format!("// {error}\n"),
    }
}

fn bundle(gpu: &Gpu, trial: &Trial, record: &Record) -> String {
    let run = |dispatch: &Dispatch| {
        let reversed = trial.mode.options(Default::default()).lanes_reversed;
        let assembled = assemble(&completed(&dispatch.spec, gpu.tier(), reversed));
        let reflected = assembled.as_ref().map(|a| a.bindings()).unwrap_or_default();
        let bound = |(name, words, _): &(&'static str, Vec<u32>, Vec<u32>)| {
            let found = reflected.iter().find(|binding| binding.name == *name)?;
            let kind = match found.access {
                Access::Uniform(_) => "uniform",
                Access::Read => "read-only-storage",
                Access::Write => "storage",
            };
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            Some(Bound {
                group: 0,
                binding: found.number,
                name,
                kind,
                bytes: bytes.len(),
                base64: BASE64_STANDARD.encode(&bytes),
            })
        };
        let (x, y, z) = dispatch.grid;
        Run {
            file: dispatch.spec.file,
            wgsl: text(gpu, trial, &dispatch.spec),
            entry_point: "main",
            workgroups: [x, y, z],
            bindings: dispatch.bindings.iter().filter_map(bound).collect(),
        }
    };
    let info = gpu.info();
    let bundle = Bundle {
        bundle: 1,
        case: trial.name(),
        adapter: gpu.label().to_owned(),
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
        dispatches: record.dispatches.iter().map(run).collect(),
        check: record.difference.as_ref().map(|difference| check(difference, &record.dispatches)),
    };
    serde_json::to_string(&bundle).unwrap_or_default()
}

fn check(difference: &Difference, dispatches: &[Dispatch]) -> Check {
    // The comparison had words of a result alone: where they are is where they are found, from the last dispatch on.
    let found = dispatches.iter().enumerate().rev().find_map(|(dispatch, run)| {
        run.bindings.iter().find_map(|(name, _, after)| {
            let windows = &mut after.windows(difference.got.len().max(1));
            let at = windows.position(|words| words == difference.got)?;
            Some((dispatch, *name, at))
        })
    });
    let numbers = |values: &[f64]| values.iter().copied().map(finite).collect();
    let actual = |&bits: &u32| finite(f64::from(f32::from_bits(bits)));
    Check {
        part: difference.worst.part.clone(),
        dispatch: found.map(|(dispatch, ..)| dispatch),
        binding: found.map(|(_, name, _)| name),
        first_word: found.map(|(.., at)| at),
        expected: numbers(&difference.want),
        tolerance: numbers(&difference.tolerance),
        actual: difference.got.iter().map(actual).collect(),
        actual_bits: difference.got.clone(),
        derivation: difference.worst.derivation.clone(),
    }
}

/// Names the variant of the kernel that a case is of: its file, and the files that fill its slots.
pub(super) fn variant(trial: &Trial, specs: &[ShaderSpec]) -> Option<String> {
    let stem = |file: &str| {
        let name = file.rsplit('/').next().unwrap_or(file);
        name.trim_end_matches(".wgsl").to_owned()
    };
    let is_its = |spec: &&ShaderSpec| stem(spec.file).starts_with(trial.case.kernel);
    let spec = specs.iter().find(is_its).or(specs.first())?;
    let slots = completed(spec, trial.tier, false).slots;
    let files = slots.iter().map(|(_, file)| stem(file));
    Some([stem(spec.file)].into_iter().chain(files).collect::<Vec<_>>().join("+"))
}

/// Base64 of bytes, for what a page carries with it.
pub(super) fn base64(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(bytes)
}
