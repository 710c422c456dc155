//! What sessions hold: who has which blocks, the index of every token, and keys and values wherever they live. Nothing of it is bound
//! to a scratch: the operations that need both are made where a cache and a runner meet ([`super::residency`]).

use super::EngineOptions;
use super::host::HotKv;
use super::memory::{ListRows, ResidencyRows, WholeRows};
use crate::Result;
use crate::attention::Shape;
use crate::gpu::{Binding, Gpu};
use crate::kv::{Index, IndexRows, KvCache, LayerIndex, Pool};
use crate::model::ModelConfig;
use std::sync::Arc;

/// The blocks of an engine's sessions.
pub(super) struct Cache {
    pool: Pool,
    index: Option<Index>,
    kv: Kv,
}

/// Keys and values: all on the GPU, or in CPU memory with a hot cache on the GPU.
#[derive(Clone)]
pub(super) enum Kv {
    Whole(Arc<WholeKv>),
    Hot(Arc<HotKv>),
}

/// All keys and values on the GPU.
pub(super) struct WholeKv {
    blocks: KvCache,
    steered: Option<BlockLists>,
}

/// Lists of every layer: of blocks, or of a number for each row and KV head.
pub(super) struct BlockLists {
    pub(super) buffer: wgpu::Buffer,
    /// Bytes from a layer's lists to the next.
    pub(super) stride: u64,
}

impl BlockLists {
    async fn new(gpu: &Gpu, rows: &ListRows) -> Result<Self> {
        Ok(Self { buffer: gpu.allocate(&rows.row).await?, stride: rows.stride })
    }

    /// Where a layer's lists begin.
    pub(super) fn at(&self, layer: usize) -> u64 {
        layer as u64 * self.stride
    }

    /// Those of a layer.
    pub(super) fn layer(&self, number: usize) -> Binding<'_> {
        Binding::range(&self.buffer, self.at(number), self.stride)
    }
}

impl Cache {
    /// A cache with buffers of these rows.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub(super) async fn new(
        gpu: &Gpu,
        config: &ModelConfig,
        options: &EngineOptions,
        index: Option<&IndexRows>,
        rows: &ResidencyRows,
    ) -> Result<Self> {
        let (shape, layers) = (options.shape(config), config.layers);
        Ok(Self {
            pool: Pool::new(options.blocks(), options.block, options.sessions),
            index: match index {
                None => None,
                Some(rows) => Some(Index::new(gpu, layers, rows).await?),
            },
            kv: match rows {
                ResidencyRows::Whole(rows) => {
                    Kv::Whole(Arc::new(WholeKv::new(gpu, &shape, layers, rows).await?))
                }
                ResidencyRows::Hot(rows) => {
                    Kv::Hot(Arc::new(HotKv::new(gpu, &shape, layers, rows).await?))
                }
            },
        })
    }

    /// Who has which blocks.
    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The index of each layer; none where no index is kept.
    pub(super) fn indices(&self) -> &[LayerIndex] {
        self.index.as_ref().map_or(&[], |index| &index.layers)
    }

    #[cfg(test)]
    pub(super) fn indices_mut(&mut self) -> &mut [LayerIndex] {
        self.index.as_mut().map_or(&mut [], |index| &mut index.layers)
    }

    /// Keys and values.
    pub(super) fn kv(&self) -> &Kv {
        &self.kv
    }
}

impl WholeKv {
    async fn new(gpu: &Gpu, shape: &Shape, layers: u32, rows: &WholeRows) -> Result<Self> {
        Ok(Self {
            blocks: KvCache::new(gpu, shape, layers, &rows.kv).await?,
            steered: match &rows.steered {
                None => None,
                Some(lists) => Some(BlockLists::new(gpu, lists).await?),
            },
        })
    }

    /// Every block.
    pub(super) fn blocks(&self) -> &KvCache {
        &self.blocks
    }

    /// In a replay: what each layer attends.
    pub(super) fn steered(&self) -> Option<&BlockLists> {
        self.steered.as_ref()
    }
}
