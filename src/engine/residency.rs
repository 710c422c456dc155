//! The operations of a cache on a runner: what has to be bound to both is made here, once, when an engine is built. They differ by
//! where keys and values live.

use super::Engine;
use super::cache::{Cache, Kv, WholeKv};
use super::host::{GROUP_LAYERS, Hot};
use super::layer::Layer;
use super::memory::MemoryPlan;
use super::ops::{Blocks, LayerKv, OpMaker, WholeOps};
use super::runner::Runner;
use crate::Result;
use crate::gpu::Binding;
use crate::kv::{KvCache, OffloadStats};
use crate::memory::Group;
use std::sync::Arc;

/// One of the two.
pub(super) enum Residency {
    /// All on the GPU.
    Whole(Whole),
    /// In CPU memory, with a hot cache on the GPU.
    Hot(Hot),
}

/// All keys and values on the GPU.
pub(super) struct Whole {
    pub(super) kv: Arc<WholeKv>,
    pub(super) layers: Vec<Layer<WholeOps>>,
}

impl Residency {
    /// Makes those of this cache on this runner, whose scratch the maker has.
    ///
    /// # Errors
    /// Errors of the device.
    pub(super) async fn new(
        maker: &mut OpMaker<'_>,
        runner: &Runner,
        cache: &Cache,
    ) -> Result<Self> {
        Ok(match cache.kv() {
            Kv::Whole(kv) => Self::Whole(Whole::new(maker, runner, cache, kv.clone()).await?),
            Kv::Hot(kv) => Self::Hot(Hot::new(maker, runner, cache, kv.clone()).await?),
        })
    }

    /// What of the cache is on the GPU.
    pub(super) fn cache(&self) -> &KvCache {
        match self {
            Self::Whole(whole) => whole.kv.blocks(),
            Self::Hot(hot) => hot.cache(),
        }
    }

    /// Segments and the blocks of each, where block tables tell which one a block is in. In a hot cache it has a slot while it is
    /// wanted, one row's in any of them.
    pub(super) fn segments(&self) -> Option<(u32, u32)> {
        match self {
            Self::Whole(whole) => {
                let layout = &whole.kv.blocks().layout;
                Some((layout.segments, layout.segment_blocks))
            }
            Self::Hot(_) => None,
        }
    }
}

impl Engine {
    /// Layers whose blocks a step over a hot cache fetches and places together.
    #[cfg_attr(feature = "measure", visibility::make(pub))]
    pub(crate) const GROUP_LAYERS: usize = GROUP_LAYERS;

    /// What the offload engine did so far; none where the whole cache is on the GPU.
    pub async fn offload_stats(&self) -> Option<OffloadStats> {
        match &self.residency {
            Residency::Whole(_) => None,
            Residency::Hot(hot) => {
                let stats = hot.turn(self).await.stats();
                Some(OffloadStats { gpu_bytes: self.kv_gpu_bytes(), ..stats })
            }
        }
    }

    /// The blocks that level 1 chose in the latest step, of its first session: layer, KV head, logical blocks ascending.
    /// None where that step chose none, or the KV cache is all on the GPU.
    #[cfg_attr(feature = "measure", visibility::make(pub))]
    pub(crate) async fn fetched_blocks(&self) -> Option<Vec<Vec<Vec<u32>>>> {
        match &self.residency {
            Residency::Whole(_) => None,
            Residency::Hot(hot) => hot.turn(self).await.fetched_blocks(),
        }
    }

    /// Bytes of GPU memory for the KV cache and its index: of the whole cache, or of the hot cache and what carries
    /// blocks to it and from it.
    #[cfg_attr(feature = "measure", visibility::make(pub))]
    pub(crate) fn kv_gpu_bytes(&self) -> u64 {
        let plan = MemoryPlan::new(&self.config, &self.options);
        plan.kv_bytes() + plan.bytes(Group::Index)
    }
}

impl Whole {
    async fn new(
        maker: &mut OpMaker<'_>,
        runner: &Runner,
        cache: &Cache,
        kv: Arc<WholeKv>,
    ) -> Result<Self> {
        let layout = kv.blocks().layout;
        let mut layers = Vec::new();
        let weights = runner.model().layers().iter().zip(runner.layers());
        for (number, ((weights, ops), segments)) in weights.zip(kv.blocks().layers()).enumerate() {
            let chosen = Binding::from(&maker.scratch.chosen_blocks);
            let candidates = match kv.steered() {
                None => chosen.clone(),
                Some(lists) => lists.layer(number),
            };
            let window = maker.options.window(maker.config, number as u32);
            let blocks = Blocks::Paged;
            let layer = LayerKv { layout, segments, blocks, window, chosen, candidates };
            let index = cache.indices().get(number);
            let own = maker.whole_ops(&weights.attention, &layer, index).await?;
            layers.push(maker.layer(ops, &layer, index, own).await?);
        }
        Ok(Self { kv, layers })
    }
}
