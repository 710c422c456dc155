//! Where an engine's keys and values live. Decided once, when the engine is built: each residency has its own buffers,
//! operations and state, and nothing of the other's.

use super::Engine;
use super::host::{GROUP_LAYERS, Hot};
use super::layer::Layer;
use super::memory::{MemoryPlan, ResidencyRows, WholeRows};
use super::ops::{Blocks, LayerKv, LayerWeights, OpMaker, WholeOps};
use crate::Result;
use crate::gpu::Binding;
use crate::kv::{Index, KvCache, OffloadStats};
use crate::memory::Group;

/// One of the two.
pub(super) enum Residency {
    /// All on the GPU.
    Whole(Whole),
    /// In CPU memory, with a hot cache on the GPU.
    Hot(Box<Hot>),
}

/// All keys and values on the GPU.
pub(super) struct Whole {
    pub(super) cache: KvCache,
    pub(super) layers: Vec<Layer<WholeOps>>,
    /// In a replay: what each layer attends.
    pub(super) steered: Option<BlockLists>,
}

/// Lists of blocks of every layer.
pub(super) struct BlockLists {
    pub(super) buffer: wgpu::Buffer,
    /// Bytes from a layer's lists to the next.
    pub(super) stride: u64,
}

impl BlockLists {
    /// Where a layer's lists begin.
    pub(super) fn at(&self, layer: usize) -> u64 {
        layer as u64 * self.stride
    }

    /// Those of a layer.
    pub(super) fn layer(&self, number: usize) -> Binding<'_> {
        Binding::range(&self.buffer, self.at(number), self.stride)
    }
}

impl Residency {
    /// Makes what the options ask for.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub(super) async fn new(
        maker: &mut OpMaker<'_>,
        rows: &ResidencyRows,
        weights: &[LayerWeights],
        index: Option<&Index>,
    ) -> Result<Self> {
        Ok(match rows {
            ResidencyRows::Whole(rows) => {
                Self::Whole(Whole::new(maker, rows, weights, index).await?)
            }
            ResidencyRows::Hot(rows) => {
                Self::Hot(Box::new(Hot::new(maker, rows, weights, index).await?))
            }
        })
    }

    /// What of the cache is on the GPU.
    pub(super) fn cache(&self) -> &KvCache {
        match self {
            Self::Whole(whole) => &whole.cache,
            Self::Hot(hot) => &hot.cache,
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
        rows: &WholeRows,
        weights: &[LayerWeights],
        index: Option<&Index>,
    ) -> Result<Self> {
        let (gpu, scratch, layout) = (maker.gpu, maker.scratch, rows.kv.layout);
        let cache = KvCache::new(gpu, &maker.shape, maker.config.layers, &rows.kv).await?;
        let steered = match &rows.steered {
            None => None,
            Some(lists) => {
                let buffer = gpu.allocate(&lists.row).await?;
                Some(BlockLists { buffer, stride: lists.stride })
            }
        };
        let mut layers = Vec::new();
        for (number, (weights, segments)) in weights.iter().zip(cache.layers()).enumerate() {
            let chosen = Binding::from(&scratch.chosen_blocks);
            let candidates = match &steered {
                None => chosen.clone(),
                Some(lists) => lists.layer(number),
            };
            let kv = LayerKv { layout, segments, blocks: Blocks::Paged, chosen, candidates };
            let index = index.map(|index| &index.layers[number]);
            let own = maker.whole_ops(&weights.attention, &kv, index).await?;
            layers.push(maker.layer(weights, &kv, index, own).await?);
        }
        Ok(Self { cache, layers, steered })
    }
}
