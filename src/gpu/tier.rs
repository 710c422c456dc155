//! Tiers of adapters: what a device is asked for, and what its kernels may then use. Which kernels those are is said in
//! `kernels/tiers.rs`.

use super::adapter::Adapter;
use crate::{Error, Result};

/// Optional features that are switched off, so that one machine can test every path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disable {
    /// Use the kernels that need no subgroup operations.
    pub subgroups: bool,
    /// Use the kernels that need no cooperative matrices.
    pub cooperative: bool,
}

impl Disable {
    /// Parses the comma-separated list of `ASYNCTLS_DISABLE`.
    ///
    /// # Errors
    /// [`Error::Argument`] for a word that names no feature.
    pub fn parse(list: &str) -> Result<Self> {
        let mut disable = Self::default();
        for word in list.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match word {
                "subgroups" => disable.subgroups = true,
                "cooperative" => disable.cooperative = true,
                _ => {
                    return Err(Error::argument(
                        "ASYNCTLS_DISABLE",
                        word,
                        "only subgroups and cooperative (matrices) can be disabled",
                    ));
                }
            }
        }
        Ok(disable)
    }

    /// [`Disable::parse`] of the environment variable `ASYNCTLS_DISABLE`.
    ///
    /// # Errors
    /// As [`Disable::parse`].
    pub fn from_env() -> Result<Self> {
        Self::parse(&std::env::var("ASYNCTLS_DISABLE").unwrap_or_default())
    }
}

/// A tier of adapters: the features it needs. The portable tier needs none.
#[derive(Debug, PartialEq, Eq)]
pub struct Tier {
    /// The tier's name.
    pub name: &'static str,
    /// Features that the device is opened with.
    pub features: wgpu::Features,
    /// The one subgroup size that it is for, if it is for one.
    pub(super) subgroup_size: Option<u32>,
    /// Whether it is for software rasterisers only.
    software: bool,
    /// The file that fills the slot `<reduce>`.
    pub reduce: &'static str,
    /// Floating-point operations of one submission of a prompt: few enough that no desktop's watchdog (two seconds)
    /// fires.
    pub submission: u64,
    /// Bytes of workgroup memory that its kernels use.
    pub(crate) workgroup_bytes: u32,
    /// The most lanes that a workgroup of them has.
    pub(crate) workgroup_lanes: u32,
}

// A quarter of a second on a slow integrated GPU.
const SLOW: u64 = 1 << 36;
// Adapters with matrix units do this in a fraction of a second, even a laptop's.
const FAST: u64 = 1 << 40;

// WebGPU's guaranteed workgroup memory.
const WORKGROUP_BYTES: u32 = 16384;

// WebGPU's guaranteed lanes of a workgroup.
const WORKGROUP_LANES: u32 = 256;

// Best first.
const TIERS: &[Tier] = &[
    Tier {
        name: "subgroups-of-8",
        features: wgpu::Features::SUBGROUP,
        subgroup_size: Some(8),
        software: true,
        reduce: "lib/reduce_shuffled.wgsl",
        submission: SLOW,
        workgroup_bytes: WORKGROUP_BYTES,
        workgroup_lanes: WORKGROUP_LANES,
    },
    Tier {
        name: "cooperative",
        features: wgpu::Features::SUBGROUP
            .union(wgpu::Features::SHADER_F16)
            .union(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX),
        subgroup_size: Some(32),
        software: false,
        reduce: "lib/reduce_shuffled.wgsl",
        submission: FAST,
        workgroup_bytes: 49152,
        workgroup_lanes: 1024,
    },
    Tier {
        name: "subgroups-of-32",
        features: wgpu::Features::SUBGROUP,
        subgroup_size: Some(32),
        software: false,
        reduce: "lib/reduce_shuffled.wgsl",
        submission: SLOW,
        workgroup_bytes: WORKGROUP_BYTES,
        workgroup_lanes: WORKGROUP_LANES,
    },
    Tier {
        name: "subgroups",
        features: wgpu::Features::SUBGROUP,
        subgroup_size: None,
        software: false,
        reduce: "lib/reduce_subgroup.wgsl",
        submission: SLOW,
        workgroup_bytes: WORKGROUP_BYTES,
        workgroup_lanes: WORKGROUP_LANES,
    },
    Tier {
        name: "portable",
        features: wgpu::Features::empty(),
        subgroup_size: None,
        software: false,
        reduce: "lib/reduce_workgroup.wgsl",
        submission: SLOW,
        workgroup_bytes: WORKGROUP_BYTES,
        workgroup_lanes: WORKGROUP_LANES,
    },
];

impl Tier {
    /// Whether the adapter runs lanes one after the other, as software rasterisers do.
    pub fn emulates_lanes(&self) -> bool {
        self.software
    }

    /// The one subgroup size that it is for, if it is for one.
    #[cfg(feature = "conformance")]
    pub(crate) fn subgroup_size(&self) -> Option<u32> {
        self.subgroup_size
    }

    /// Every tier, the best first.
    pub fn all() -> &'static [Tier] {
        TIERS
    }

    /// The tier of this name.
    pub fn named(name: &str) -> Option<&'static Tier> {
        TIERS.iter().find(|tier| tier.name == name)
    }

    /// The best tier that an adapter supports.
    pub fn of(adapter: &Adapter, disable: Disable) -> &'static Tier {
        Self::of_device(adapter, adapter.raw.features(), &adapter.raw.limits(), disable)
    }

    /// The best tier of an adapter's device that has these features and limits.
    pub(super) fn of_device(
        adapter: &Adapter,
        mut features: wgpu::Features,
        limits: &wgpu::Limits,
        disable: Disable,
    ) -> &'static Tier {
        if disable.subgroups {
            features.remove(wgpu::Features::SUBGROUP);
        }
        if disable.cooperative || !multiplies_halves(adapter) {
            features.remove(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX);
        }
        let info = &adapter.info;
        let fits = |tier: &&Tier| {
            features.contains(tier.features)
                && (!tier.software || info.device_type == wgpu::DeviceType::Cpu)
                && tier.workgroup_bytes <= limits.max_compute_workgroup_storage_size
                && tier.workgroup_lanes <= limits.max_compute_invocations_per_workgroup
                && tier.workgroup_lanes <= limits.max_compute_workgroup_size_x
                && tier.subgroup_size.is_none_or(|size| {
                    (info.subgroup_min_size, info.subgroup_max_size) == (size, size)
                })
        };
        TIERS.iter().find(fits).expect("the last tier needs nothing")
    }
}

// Whether the adapter multiplies the cooperative matrices that kernels use: 16 x 16 x 16, of f16, summed in f32.
fn multiplies_halves(adapter: &Adapter) -> bool {
    adapter.raw.cooperative_matrix_properties().iter().any(|matrix| {
        (matrix.m_size, matrix.n_size, matrix.k_size) == (16, 16, 16)
            && matrix.ab_type == wgpu::CooperativeScalarType::F16
            && matrix.cr_type == wgpu::CooperativeScalarType::F32
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_to_do_without_are_a_list_of_known_words() {
        let both = Disable { subgroups: true, cooperative: true };
        assert_eq!(Disable::parse("cooperative, subgroups").unwrap(), both);
        assert_eq!(Disable::parse("").unwrap(), Disable::default());
        let error = Disable::parse("gravity").unwrap_err().to_string();
        assert!(error.contains("gravity") && error.contains("cooperative"), "{error}");
    }
}
