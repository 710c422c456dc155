//! The operations of a layer whose blocks live in CPU memory: what a chunk of a prompt goes through, and what places blocks
//! that arrive in the hot cache.

use super::index::{IndexOps, RANKS, SealingOps, TokenOps, scoring, selection};
use super::latent::SlabOps;
use super::{AttentionWeights, LayerKv, OpMaker};
use crate::Result;
use crate::attention::{BlockScorer, Shape, Timing};
use crate::engine::host::HotBuffers;
use crate::engine::layer::KvOps;
use crate::engine::record::Plan;
use crate::formats::KvType;
use crate::gpu::{Binding, Op};
use crate::kernels::{self, Choice, ChoiceOps, HotSlots, PartParams, Place};
use crate::kv::{LayerIndex, Uploads};
use crate::model::config::AttentionConfig;
use std::sync::Arc;

/// Vectors hold one a segment of the hot cache.
pub(in crate::engine) struct HotOps {
    /// Appends a decode step's rows to the window.
    append: Vec<Op>,
    /// Appends a chunk's rows to the chunk.
    chunk_append: Op,
    /// Places what arrived.
    pub(in crate::engine) place: Vec<Op>,
    pub(in crate::engine) prefill: HotPrefill,
    pub(in crate::engine) index: Option<HotIndexOps>,
}

/// Dense attention of a chunk's rows.
pub(in crate::engine) enum HotPrefill {
    Grouped(Arc<PieceOps>),
    /// What reads a slab is the same in every layer.
    Latent(Box<SlabOps>, Arc<GatherOps>),
}

/// Attention over the chunk itself, and over a piece of what came before.
pub(in crate::engine) struct PieceOps {
    chunk: Op,
    pub(in crate::engine) arrived: Op,
}

/// One a slab: what reads cached latents of the chunk, and of what arrived.
pub(in crate::engine) struct GatherOps {
    pub(in crate::engine) chunk: Vec<Op>,
    pub(in crate::engine) arrived: Vec<Op>,
}

/// What all layers share.
pub(in crate::engine) enum SharedOps {
    Grouped(Arc<PieceOps>),
    Latent(Arc<GatherOps>),
}

/// Of an engine with an index.
pub(in crate::engine) struct HotIndexOps {
    /// The index of blocks that are sealed in the window, in the chunk, and of blocks that arrived.
    sealing: Vec<SealingOps>,
    chunk_sealing: SealingOps,
    pub(in crate::engine) arrived_sealing: SealingOps,
    /// Level 1's choice among blocks that have a slot, to where the host lists candidates; by rank.
    resident: [ChoiceOps; 2],
    /// The weight of what level 1 chose and the step does not attend; by rank.
    missed_mass: [Op; 2],
    /// Level 2 over what the host listed, or level 1 chose among blocks that have a slot.
    listed: TokenOps,
    /// Attention of what arrived in this step, and what it and that of the rest come to.
    pub(in crate::engine) arrived_split: Vec<Op>,
    pub(in crate::engine) merge_arrived: Op,
}

impl KvOps for HotOps {
    fn append(&self, pass: &mut wgpu::ComputePass<'_>, plan: &Plan<'_>, heads: u32) {
        let rows = plan.step.rows;
        if plan.is_chunk {
            return self.chunk_append.record(pass, heads, rows, 1);
        }
        for &segment in &plan.segments {
            self.append[segment as usize].record(pass, heads, rows, 1);
        }
    }

    fn sealing(&self, plan: &Plan<'_>) -> &[SealingOps] {
        match &self.index {
            None => &[],
            Some(index) if plan.is_chunk => std::slice::from_ref(&index.chunk_sealing),
            Some(index) => &index.sealing,
        }
    }

    // Over the chunk. What came before is attended piece by piece as it comes, and slabs all are.
    fn attend_prompt(&self, pass: &mut wgpu::ComputePass<'_>, plan: &Plan<'_>, shape: &Shape) {
        if let HotPrefill::Grouped(pieces) = &self.prefill {
            pieces.chunk.record(pass, shape.q_heads(), plan.step.prompt_tiles, 1);
        }
    }

    fn tokens<'o>(&'o self, index: &'o IndexOps, timing: Timing) -> &'o TokenOps {
        match (&self.index, timing) {
            (None, _) | (_, Timing::Exact) => &index.tokens,
            (Some(own), Timing::Lagged | Timing::Resident) => &own.listed,
        }
    }

    fn compare_choice(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        plan: &Plan<'_>,
        scorer: BlockScorer,
        kv_heads: u32,
    ) {
        let Some(index) = &self.index else { return };
        let rank = scorer.row().rank as usize;
        if plan.timing == Timing::Resident {
            let (is_ranked, rows) = (plan.step.ranks_blocks, plan.step.selecting);
            index.resident[rank].record(pass, is_ranked, kv_heads, rows);
        }
        if plan.weighs_missed {
            index.missed_mass[rank].record(pass, kv_heads, plan.step.selecting, 1);
        }
    }
}

/// What the operations of a hot cache are made over.
#[derive(Clone, Copy)]
pub(in crate::engine) struct HotParts<'a> {
    pub(in crate::engine) buffers: &'a HotBuffers,
    pub(in crate::engine) uploads: &'a Uploads,
    pub(in crate::engine) slots: HotSlots,
    pub(in crate::engine) kv_type: KvType,
}

/// A layer of a hot cache as its kernels see it.
pub(in crate::engine) struct HotLayer<'a> {
    pub(in crate::engine) number: usize,
    pub(in crate::engine) kv: LayerKv<'a>,
    /// Says where each block is.
    pub(in crate::engine) table: &'a wgpu::Buffer,
    /// Where the host lists candidates of level 2.
    pub(in crate::engine) listed: Binding<'a>,
}

impl OpMaker<'_> {
    pub(in crate::engine) async fn hot_ops(
        &mut self,
        parts: &HotParts<'_>,
        weights: &AttentionWeights,
        layer: &HotLayer<'_>,
        index: Option<&LayerIndex>,
        shared: &SharedOps,
    ) -> Result<HotOps> {
        let (gpu, own, kv) = (self.gpu, parts.buffers, &layer.kv);
        let append = self.appends(weights, &own.append_step, kv).await?;
        let chunk_append =
            self.append(weights, &own.tables, &own.chunk_segment, &self.chunk(parts)).await?;
        let spec = kernels::place_blocks(&self.shape, parts.slots, parts.kv_type);
        let part = self.uniform(PartParams { layer: layer.number as u32 }).await?;
        let mut place = Vec::new();
        for (segment, buffer) in &self.kv_segments(kv.layout, kv.segments).await? {
            let blocks = kernels::PlaceBlocks {
                stored: parts.uploads.stored().into(),
                part: (&part).into(),
                segment: segment.into(),
                kv: buffer.clone(),
                hot_slots: layer.table.into(),
            };
            place.push(gpu.op(&spec, blocks).await?);
        }
        let prefill = match (weights, shared) {
            (AttentionWeights::Grouped { .. }, SharedOps::Grouped(pieces)) => {
                HotPrefill::Grouped(pieces.clone())
            }
            (AttentionWeights::Latent(latent), SharedOps::Latent(gather)) => {
                HotPrefill::Latent(Box::new(self.slab_ops(latent).await?), gather.clone())
            }
            _ => unreachable!("all layers have one kind of attention"),
        };
        let index = match index {
            None => None,
            Some(index) => Some(self.hot_index_ops(parts, layer, index).await?),
        };
        Ok(HotOps { append, chunk_append, place, prefill, index })
    }

    async fn hot_index_ops(
        &mut self,
        parts: &HotParts<'_>,
        layer: &HotLayer<'_>,
        index: &LayerIndex,
    ) -> Result<HotIndexOps> {
        let (gpu, shape, own, kv) = (self.gpu, self.shape, parts.buffers, &layer.kv);
        let mut sealing = Vec::new();
        for (segment, buffer) in &self.kv_segments(kv.layout, kv.segments).await? {
            sealing.push(self.sealing(index, buffer, segment).await?);
        }
        let stride = self.score_rows().await?;
        let (selection, scoring) = (selection(&shape), scoring(self.scratch, &stride));
        let [by_softmax, plainly] =
            RANKS.map(|rank| (Choice::Resident(rank, parts.slots), Some(layer.table.into())));
        let missed = kernels::MissedMass {
            step: (&self.scratch.step).into(),
            score_rows: (&stride).into(),
            scores: (&self.scratch.scores).into(),
            chosen: own.wanted.layer(layer.number),
            listed: layer.listed.clone(),
            hot_slots: layer.table.into(),
            missed: own.missed.layer(layer.number),
        };
        let [of_heads, of_groups] =
            RANKS.map(|rank| kernels::missed_mass(&shape, rank, parts.slots));
        let spec = kernels::sparse_split(gpu.tier, &shape, Place::Arrived(parts.slots));
        let chosen = Some(&self.scratch.chosen_tokens);
        let mut arrived_split = Vec::new();
        for segment in 0..kv.segments.len() {
            // Its states are behind those of what was there.
            let first = kv.layout.segments;
            arrived_split.push(self.split(&spec, kv, segment, chosen, first).await?);
        }
        let (chunk, arrived) = (self.chunk(parts), self.arrived(parts));
        Ok(HotIndexOps {
            sealing,
            chunk_sealing: self.sealing(index, &chunk, &own.chunk_segment).await?,
            arrived_sealing: self.sealing(index, &arrived, &own.arrived_segment).await?,
            resident: [
                selection.choose(gpu, &scoring, by_softmax, layer.listed.clone()).await?,
                selection.choose(gpu, &scoring, plainly, layer.listed.clone()).await?,
            ],
            missed_mass: [
                gpu.op(&of_heads, missed.clone()).await?,
                gpu.op(&of_groups, missed).await?,
            ],
            listed: self.token_ops(kv, index, &layer.listed).await?,
            arrived_split,
            merge_arrived: self.merge(kv, 2 * kv.layout.segments).await?,
        })
    }

    // The chunk, with room for all blocks that it may touch.
    fn chunk<'p>(&self, parts: &HotParts<'p>) -> Binding<'p> {
        let blocks = u64::from(self.options.chunk_blocks());
        Binding::from(&parts.buffers.chunk).holding(blocks * self.shape.block_bytes())
    }

    // Where blocks arrive, with room for as many as come at a time.
    fn arrived<'p>(&self, parts: &HotParts<'p>) -> Binding<'p> {
        let blocks = u64::from(parts.uploads.piece_blocks());
        Binding::from(parts.uploads.arrived()).holding(blocks * self.shape.block_bytes())
    }

    /// What all layers share.
    pub(in crate::engine) async fn hot_shared_ops(
        &mut self,
        parts: &HotParts<'_>,
    ) -> Result<SharedOps> {
        let own = parts.buffers;
        let chunk = (&own.chunk_segment, &self.chunk(parts));
        let arrived = (&own.arrived_segment, &self.arrived(parts));
        Ok(match self.config.attention {
            AttentionConfig::Latent(_) => SharedOps::Latent(Arc::new(GatherOps {
                chunk: self.latent_gathers(&own.tables, chunk.0, chunk.1).await?,
                arrived: self.latent_gathers(&own.tables, arrived.0, arrived.1).await?,
            })),
            AttentionConfig::Grouped(_) => SharedOps::Grouped(Arc::new(PieceOps {
                chunk: self.prefill(&own.tables, chunk.0, chunk.1, None).await?,
                arrived: self.prefill(&own.tables, arrived.0, arrived.1, None).await?,
            })),
        })
    }

    /// Makes f16 of whole blocks that arrived, where they are stored otherwise.
    pub(in crate::engine) async fn unpack(&self, parts: &HotParts<'_>) -> Result<Option<Op>> {
        if parts.kv_type == KvType::F16 {
            return Ok(None);
        }
        let spec = kernels::unpack_blocks(&self.shape, parts.kv_type);
        let (stored, kv) = (parts.uploads.stored().into(), self.arrived(parts));
        let blocks = kernels::UnpackBlocks { stored, kv };
        self.gpu.op(&spec, blocks).await.map(Some)
    }
}
