//! The shape of a bundle, which `docs/json.md` describes.

use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Kernels that a receiver may run, the best first.
#[derive(Debug, Serialize)]
pub struct TierNeeds {
    /// The tier.
    pub name: &'static str,
    /// What a device needs to run it.
    pub needs: Needs,
}

/// What a device needs, in WebGPU's words.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Needs {
    /// Features.
    pub features: BTreeSet<&'static str>,
    /// Features of the language.
    pub language: BTreeSet<&'static str>,
    /// The one size that subgroups may have.
    pub subgroup_size: Option<u32>,
    /// Whether lanes have to be emulated, as fallback adapters do.
    pub fallback: bool,
    /// Limits, each at least so large.
    pub limits: BTreeMap<&'static str, u64>,
}

#[derive(Serialize)]
pub(super) struct Bundle {
    pub(super) bundle: u32,
    pub(super) case: String,
    pub(super) kernel: &'static str,
    pub(super) texts: Vec<String>,
    pub(super) data: Vec<String>,
    pub(super) runs: Vec<Run>,
}

#[derive(Serialize)]
pub(super) struct Run {
    pub(super) name: String,
    pub(super) mode: &'static str,
    pub(super) tier: &'static str,
    pub(super) variant: Option<String>,
    pub(super) unsupported: Option<String>,
    pub(super) needs: Needs,
    pub(super) buffers: Vec<Buffer>,
    pub(super) dispatches: Vec<Dispatched>,
    pub(super) checks: Vec<Checked>,
}

#[derive(Serialize)]
pub(super) struct Buffer {
    pub(super) name: &'static str,
    pub(super) bytes: u64,
    /// What it holds, by number; where there is none and no copy, poison.
    pub(super) data: Option<usize>,
    pub(super) copy: Option<Copied>,
}

#[derive(Serialize)]
pub(super) struct Copied {
    pub(super) buffer: usize,
    pub(super) first_word: usize,
    pub(super) words: usize,
}

#[derive(Serialize)]
pub(super) struct Dispatched {
    pub(super) file: &'static str,
    pub(super) text: usize,
    pub(super) entry_point: &'static str,
    pub(super) workgroups: [u32; 3],
    pub(super) bindings: Vec<Bound>,
}

#[derive(Serialize)]
pub(super) struct Bound {
    pub(super) group: u32,
    pub(super) binding: u32,
    pub(super) kind: &'static str,
    pub(super) buffer: usize,
}

#[derive(Serialize)]
pub(super) struct Checked {
    pub(super) part: String,
    pub(super) buffer: usize,
    pub(super) first_word: Option<usize>,
    pub(super) words: Option<usize>,
    pub(super) format: &'static str,
    pub(super) count: usize,
    pub(super) expected: Numbers,
    pub(super) tolerance: Numbers,
    pub(super) derivation: String,
}

/// One number for all, or data that have one each.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Numbers {
    All(f64),
    Each { data: usize },
}
