//! Ways to decode, and the engines that go by them.

use super::super::super::terminal::size;
use super::super::shape::Kept;
use asynctls::attention::Timing;
use asynctls::engine::{EngineOptions, Fit};
use asynctls::formats::KvType;
use asynctls::gpu::Gpu;
use asynctls::model::{ModelConfig, ModelFile};
use asynctls::{Error, Result};
use clap::ValueEnum;
use serde::Serialize;

/// What is attended, and where the KV cache is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// Everything is attended, and on the GPU
    Dense,
    /// Two-level attention, everything on the GPU
    TwoLevel,
    /// Two-level attention, the KV cache in CPU memory; what is chosen comes for the next step
    Lagged,
    /// The same, where steps attend the best of what is there
    Resident,
    /// The same, where steps wait for what they choose
    Exact,
}

impl Way {
    /// Its name, as the option takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::TwoLevel => "two-level",
            Self::Lagged => "lagged",
            Self::Resident => "resident",
            Self::Exact => "exact",
        }
    }

    /// When blocks that are in CPU memory have to be on the GPU.
    pub fn timing(self) -> Option<Timing> {
        match self {
            Self::Dense | Self::TwoLevel => None,
            Self::Lagged => Some(Timing::Lagged),
            Self::Resident => Some(Timing::Resident),
            Self::Exact => Some(Timing::Exact),
        }
    }

    /// Whether one engine can go by both.
    pub fn shares_engine(self, other: Self) -> bool {
        self == other || (self.timing().is_some() && other.timing().is_some())
    }
}

/// What engines are made for.
pub struct Load<'a> {
    pub file: &'a ModelFile,
    pub config: &'a ModelConfig,
    pub gpu: &'a Gpu,
    /// Bytes of GPU memory that an engine may take, and whether it is the CPU's too.
    pub memory: (u64, bool),
    pub block: u32,
    pub kept: Kept,
    pub kv_type: KvType,
}

impl Load<'_> {
    /// The options of an engine for `batch` sequences of `length` tokens.
    pub fn options(&self, way: Way, length: u32, batch: u32) -> EngineOptions {
        let mut own = EngineOptions::new(self.gpu, length);
        own.block = self.block;
        own.sessions = batch;
        own.total_tokens = u64::from(length.next_multiple_of(own.block)) * u64::from(batch);
        if way == Way::Dense {
            own.index = None;
        }
        if way.timing().is_some() {
            own.steered = Some(self.kept.blocks);
            let slots = self.kept.hot_blocks.saturating_mul(batch);
            own.host = Some(own.host_options(self.config, slots, self.kv_type));
        }
        own
    }

    /// The largest batch, of at most `most`, that fits the memory of the GPU and of the CPU.
    ///
    /// # Errors
    /// As [`Fit::new`].
    pub fn largest_batch(&self, way: Way, length: u32, most: u32) -> Result<Largest> {
        let (memory, is_shared) = self.memory;
        let lack = |batch: u32| -> Result<Option<String>> {
            let own = self.options(way, length, batch);
            let needed = Fit::new(self.file, self.config, &own)?.bytes_with(is_shared);
            Ok(match own.check_host_memory(self.file, self.config) {
                _ if needed > memory => {
                    Some(format!("needs {} of GPU memory, of {}", size(needed), size(memory)))
                }
                Ok(()) => None,
                Err(error) => Some(format!("does not go: {error}")),
            })
        };
        if let Some(lack) = lack(1)? {
            return Ok(Largest { batch: 0, limit: format!("one {lack}") });
        }
        for batch in 2..=most {
            let limit = match lack(batch) {
                Ok(None) => continue,
                Ok(Some(lack)) => lack,
                // More than can be numbered or bound is too much too.
                Err(error @ Error::Argument { .. }) => format!("does not go: {error}"),
                Err(error) => return Err(error),
            };
            return Ok(Largest { batch: batch - 1, limit: format!("one more {limit}") });
        }
        Ok(Largest { batch: most, limit: format!("--most {most}") })
    }
}

/// How many sequences decode together at most.
#[derive(Clone, Debug)]
pub struct Largest {
    /// None where not even one can.
    pub batch: u32,
    /// Why there cannot be one more.
    pub limit: String,
}
