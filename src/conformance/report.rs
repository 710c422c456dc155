//! A report: what runs of trials on adapters came to.

use super::evidence::Evidence;
use super::row::{Row, Summary, VariantSummary, by_variant};
use crate::gpu::{Adapter, Disable, probe};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The adapter, for who was not there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// Backend and name.
    pub adapter: String,
    /// `vulkan`, `metal`, `dx12`, `gl` or `webgpu`.
    pub backend: String,
    /// Its name.
    pub name: String,
    /// `discrete`, `integrated`, `virtual`, `cpu` or `other`.
    pub kind: String,
    /// Driver and version.
    pub driver: String,
    /// The tier of kernels that the engine would run.
    pub tier: Option<String>,
    /// Least and most lanes of a subgroup.
    pub subgroup_sizes: Option<(u32, u32)>,
    /// Optional features that kernels use.
    pub features: Vec<String>,
    /// The limits that kernels depend on.
    pub limits: BTreeMap<String, u64>,
}

impl About {
    /// Of an adapter that does without these features.
    pub fn new(adapter: &Adapter, disable: Disable) -> Self {
        let probe = probe(std::slice::from_ref(adapter), disable).remove(0);
        let limits = adapter.raw.limits();
        let named: [(&str, u64); 10] = [
            ("max_bindings_per_bind_group", limits.max_bindings_per_bind_group.into()),
            ("max_storage_buffers", limits.max_storage_buffers_per_shader_stage.into()),
            ("max_uniform_buffers", limits.max_uniform_buffers_per_shader_stage.into()),
            ("max_storage_binding_bytes", limits.max_storage_buffer_binding_size),
            ("max_buffer_bytes", limits.max_buffer_size),
            ("max_workgroup_bytes", limits.max_compute_workgroup_storage_size.into()),
            ("max_workgroup_lanes", limits.max_compute_invocations_per_workgroup.into()),
            ("max_workgroup_lanes_x", limits.max_compute_workgroup_size_x.into()),
            ("max_workgroups_a_dimension", limits.max_compute_workgroups_per_dimension.into()),
            ("storage_offset_alignment", limits.min_storage_buffer_offset_alignment.into()),
        ];
        Self {
            adapter: adapter.label(),
            backend: probe.backend,
            name: probe.name,
            kind: probe.kind,
            driver: probe.driver,
            tier: probe.tier,
            subgroup_sizes: probe.subgroup_sizes,
            features: probe.features,
            limits: named.map(|(name, value)| (name.to_owned(), value)).into(),
        }
    }
}

/// What ran.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The one trial that was asked for.
    pub case: Option<String>,
    /// The part of a name that was.
    pub filter: Option<String>,
    /// Whether a sample ran.
    pub quick: bool,
}

/// The trials of an adapter.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AdapterReport {
    /// The adapter.
    pub about: About,
    /// How many trials became what.
    pub summary: Summary,
    /// Trials that did not run: the user ended the run, or it was given up.
    pub not_run: usize,
    /// Why it was given up, if so.
    pub gave_up: Option<String>,
    /// The summary of each variant of a kernel.
    pub variants: Vec<VariantSummary>,
    /// Every trial that ran.
    pub rows: Vec<Row>,
    /// How long they took.
    pub seconds: f64,
    /// What wrong results came from, by trials' names.
    #[serde(skip)]
    pub evidence: Vec<(String, Evidence)>,
}

impl AdapterReport {
    /// Of rows, of so many planned.
    pub fn new(about: About, planned: usize, rows: Vec<Row>, seconds: f64) -> Self {
        Self {
            about,
            summary: Summary::of(&rows),
            not_run: planned - rows.len(),
            gave_up: None,
            variants: by_variant(&rows),
            rows,
            seconds,
            evidence: Vec::new(),
        }
    }
}

/// All of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// This program's version.
    pub version: String,
    /// The day that it ran, where that is known.
    pub date: Option<String>,
    /// What ran.
    pub settings: Settings,
    /// How many trials became what, of all adapters.
    pub summary: Summary,
    /// Trials that did not run.
    pub not_run: usize,
    /// Each adapter.
    pub adapters: Vec<AdapterReport>,
    /// How long it took.
    pub seconds: f64,
}

impl Report {
    /// Of these adapters.
    pub fn new(settings: Settings, adapters: Vec<AdapterReport>) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            date: None,
            settings,
            summary: Summary::of(adapters.iter().flat_map(|adapter| &adapter.rows)),
            not_run: adapters.iter().map(|adapter| adapter.not_run).sum(),
            seconds: adapters.iter().map(|adapter| adapter.seconds).sum(),
            adapters,
        }
    }
}
