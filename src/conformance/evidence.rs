//! What a wrong result came from: the shaders, what the backend's compiler was given, and a bundle that runs without this program.

use super::translate::{Given, translate};
use super::{Trial, bundle};
use crate::gpu::{Gpu, ShaderSpec, assemble, completed};
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

impl Evidence {
    /// Of a trial that failed, on a device of its own.
    pub(super) async fn new(gpu: &Gpu, trial: &Trial) -> Self {
        let (backend, checked) =
            (gpu.info().backend, trial.mode.options(Default::default()).checked);
        let shader = |spec: ShaderSpec| {
            let wgsl = text(gpu, trial, &spec);
            let given = translate(&wgsl, backend, checked);
            Shader { file: spec.file.to_owned(), wgsl, given }
        };
        let shaders = gpu.compiled().into_iter().map(shader).collect();
        let (bundle, left_out) = match bundle::of_trial(gpu, trial).await {
            Ok(bundle) => (Some(bundle), None),
            Err(why) => (None, Some(why)),
        };
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
