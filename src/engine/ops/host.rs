//! The operations of a cache whose blocks live in CPU memory: what a chunk of a prompt goes through, and what places
//! blocks that arrive in the hot cache.

use super::index::SealingOps;
use super::{AttentionWeights, IndexOps, LayerWeights, OpMaker};
use crate::Result;
use crate::engine::scratch::HostScratch;
use crate::formats::KvType;
use crate::gpu::Op;
use crate::kernels::{self, HotSlots, PartParams};
use crate::kv::LayerCache;
use crate::model::config::AttentionConfig;
use std::sync::Arc;

/// What a layer needs besides; vectors hold one a segment of the hot cache.
pub(in crate::engine) struct HostLayerOps {
    /// Appends a chunk's rows to the chunk.
    pub(in crate::engine) chunk_append: Op,
    /// The index of blocks that are sealed in the chunk.
    pub(in crate::engine) chunk_sealing: Option<SealingOps>,
    /// The index of blocks that arrived.
    pub(in crate::engine) arrived_sealing: Option<SealingOps>,
    /// Places what arrived.
    pub(in crate::engine) place: Vec<Op>,
    /// Attention of a chunk's rows.
    pub(in crate::engine) over: Arc<ChunkOps>,
}

/// What all layers share.
pub(in crate::engine) struct HostOps {
    /// Makes f16 of whole blocks that arrived, where they are stored otherwise.
    pub(in crate::engine) unpack: Option<Op>,
    pub(in crate::engine) over: Arc<ChunkOps>,
}

/// Attention of a chunk's rows, in any layer.
#[derive(Default)]
pub(in crate::engine) struct ChunkOps {
    /// Dense attention of a chunk's rows over the chunk, and over what arrived of what came before. Latent attention, whose
    /// prefill goes slab by slab, has none.
    pub(in crate::engine) prefill_chunk: Option<Op>,
    pub(in crate::engine) prefill_arrived: Option<Op>,
    /// Of latent attention, slab by slab: reads cached latents of the chunk, and of what arrived.
    pub(in crate::engine) gather_chunk: Vec<Op>,
    pub(in crate::engine) gather_arrived: Vec<Op>,
}

impl OpMaker<'_> {
    fn host_scratch(&self) -> &HostScratch {
        self.scratch.host.as_ref().expect("a hot cache has its buffers")
    }

    fn kv_type(&self) -> KvType {
        self.options.host.as_ref().map_or(KvType::F16, |host| host.kv_type)
    }

    pub(super) async fn host_layer(
        &mut self,
        number: usize,
        weights: &LayerWeights,
        cache: &LayerCache,
        slots: HotSlots,
        index: Option<&IndexOps>,
        over: &Arc<ChunkOps>,
    ) -> Result<HostLayerOps> {
        let (scratch, gpu, shape) = (self.scratch, self.gpu, self.shape);
        let host = scratch.host.as_ref().expect("a hot cache has its buffers");
        let chunk_append = match &weights.attention {
            AttentionWeights::Grouped { heads, .. } => {
                self.rope_append(heads, &host.tables, &host.chunk_segment, &host.chunk).await?
            }
            AttentionWeights::Latent(latent) => {
                self.latent_append(latent, &host.tables, &host.chunk_segment, &host.chunk).await?
            }
        };
        let (mut chunk_sealing, mut arrived_sealing) = (None, None);
        if let Some(index) = index {
            let channels = &index.channels;
            let (chunk, arrived) = (&host.chunk_segment, &host.arrived_segment);
            chunk_sealing = Some(self.sealing(&shape, cache, &host.chunk, chunk, channels).await?);
            arrived_sealing =
                Some(self.sealing(&shape, cache, &host.arrived, arrived, channels).await?);
        }
        let mut place = Vec::new();
        let table = cache.slots.as_ref().expect("a hot cache has its table");
        for (index, kv) in cache.kv.iter().enumerate() {
            let part = self.uniform(PartParams { layer: number as u32 }).await?;
            let segment = self.uniform(self.layout.segment(index as u32)).await?;
            let blocks = kernels::PlaceBlocks {
                stored: &host.uploaded,
                part: &part,
                segment: &segment,
                kv,
                hot_slots: table,
            };
            let spec = kernels::place_blocks(&shape, slots, self.kv_type());
            place.push(gpu.op(&spec, blocks).await?);
        }
        let over = over.clone();
        Ok(HostLayerOps { chunk_append, chunk_sealing, arrived_sealing, place, over })
    }

    /// What all layers share.
    pub(in crate::engine) async fn host_ops(&mut self) -> Result<HostOps> {
        let over = Arc::new(self.chunk_ops().await?);
        let (gpu, shape) = (self.gpu, self.shape);
        let mut unpack = None;
        if self.kv_type() != KvType::F16 {
            let host = self.host_scratch();
            let spec = kernels::unpack_blocks(&shape, self.kv_type());
            let blocks = kernels::UnpackBlocks { stored: &host.uploaded, kv: &host.arrived };
            unpack = Some(gpu.op(&spec, blocks).await?);
        }
        Ok(HostOps { unpack, over })
    }

    async fn chunk_ops(&mut self) -> Result<ChunkOps> {
        let mut ops = ChunkOps::default();
        let (scratch, gpu, shape) = (self.scratch, self.gpu, self.shape);
        if let AttentionConfig::Latent(_) = self.config.attention {
            let own = scratch.latent.as_ref().expect("latent attention has its buffers");
            for params in self.slabs(own) {
                let slab = self.uniform(params).await?;
                let host = self.host_scratch();
                for (ops, segment, kv) in [
                    (&mut ops.gather_chunk, &host.chunk_segment, &host.chunk),
                    (&mut ops.gather_arrived, &host.arrived_segment, &host.arrived),
                ] {
                    ops.push(self.latent_gather(own, &host.tables, segment, &slab, kv).await?);
                }
            }
            return Ok(ops);
        }
        let spec = kernels::prefill(gpu.tier, &shape, shape.row_width());
        let host = self.host_scratch();
        for (op, segment, kv) in [
            (&mut ops.prefill_chunk, &host.chunk_segment, &host.chunk),
            (&mut ops.prefill_arrived, &host.arrived_segment, &host.arrived),
        ] {
            let prefill = kernels::Prefill {
                step: &host.tables,
                segment,
                qkv: &scratch.rows,
                kv,
                out: &scratch.attended,
                states: &scratch.states,
            };
            *op = Some(gpu.op(&spec, prefill).await?);
        }
        Ok(ops)
    }
}
