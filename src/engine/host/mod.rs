//! Steps of an engine whose blocks live in CPU memory: the GPU keeps the index of every token, a window of blocks that
//! every step attends, and a hot cache of blocks that were chosen; what is missing comes through a ring of mapped buffers.

mod buffers;
mod carry;
mod decode;
mod lag;
mod layer;
mod prefill;
#[cfg(feature = "measure")]
mod replay;
mod saved;
mod window;

pub(super) use buffers::{HostBuffers, HotBuffers};

use super::cache::Cache;
use super::forward::{Begun, GoesOn};
use super::layer::Layer;
use super::memory::HotRows;
use super::ops::{Blocks, HotLayer, HotOps, HotParts, LayerKv, OpMaker};
use super::record::Role;
use super::runner::Runner;
use super::{Engine, Output, Session};
use crate::Result;
use crate::attention::{Attended, Shape, TwoLevel};
use crate::gpu::{Binding, Gpu, Op};
use crate::kernels::HotSlots;
use crate::kv::{HostOptions, Items, KvCache, MappedRing, Offload, OffloadStats, Prepared, Upload};
use futures::lock::{Mutex, MutexGuard};
use lag::Lag;
use std::sync::Arc;

/// Layers whose blocks are chosen, fetched and placed together.
pub(super) const GROUP_LAYERS: usize = 6;

/// Keys and values in CPU memory, and the hot cache.
pub(super) struct HotKv {
    options: HostOptions,
    slots: HotSlots,
    /// The window, and the hot cache behind it.
    cache: KvCache,
    /// Where each block of a layer is, as its kernels read it.
    tables: Vec<wgpu::Buffer>,
    buffers: HotBuffers,
    // Locked under the turn.
    state: Mutex<HotState>,
}

/// It, and its operations on a runner.
pub(super) struct Hot {
    kv: Arc<HotKv>,
    layers: Vec<Layer<HotOps>>,
    /// Makes f16 of whole blocks that arrived, where they are stored otherwise.
    unpack: Option<Op>,
}

/// What changes from step to step.
struct HotState {
    offload: Offload,
    /// What level 1 chose, on its way to the CPU.
    selections: MappedRing,
    groups: Vec<Group>,
    /// What the next step's candidates follow from.
    lag: Option<Lag>,
    /// Whether the GPU's words of where blocks are have to be written anew.
    is_stale: bool,
    /// Of what has begun and not ended the blocks that were free before: it stays here where nobody waits for it any more.
    unfinished: Option<Vec<u32>>,
}

/// What is on its way for a group of layers.
#[derive(Default)]
struct Group {
    /// The slot with what level 1 chose in the latest step.
    selection: Option<usize>,
    /// Head-blocks that have a slot of the hot cache, and still have to be gathered.
    items: Vec<Items>,
    /// Those that are gathered.
    uploads: Vec<Upload>,
}

/// A hot cache in the hands of whoever has the runner's turn.
pub(super) struct HotTurn<'e> {
    engine: &'e Engine,
    hot: &'e HotKv,
    ops: &'e Hot,
    state: MutexGuard<'e, HotState>,
}

impl HotKv {
    /// A hot cache of so many layers, with buffers of these rows.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub(super) async fn new(gpu: &Gpu, shape: &Shape, layers: u32, rows: &HotRows) -> Result<Self> {
        let HotRows { options, slots, kv, .. } = rows;
        let offload = Offload::new(gpu, shape, layers, *slots, options, &rows.offload).await?;
        let buffers = HotBuffers::new(gpu, rows).await?;
        let cache = KvCache::new(gpu, shape, layers, kv).await?;
        let mut tables = Vec::new();
        for number in 0..cache.layers().len() {
            let words = offload.residents.slot_words(number);
            let words = bytemuck::cast_slice(&words);
            tables.push(gpu.allocate_with(&rows.offload.table, words).await?);
        }
        let groups = cache.layers().len().div_ceil(GROUP_LAYERS);
        let state = HotState {
            offload,
            selections: MappedRing::new(gpu, &rows.selections).await?,
            groups: (0..groups).map(|_| Group::default()).collect(),
            lag: None,
            is_stale: false,
            unfinished: None,
        };
        let (options, slots, state) = (*options, *slots, Mutex::new(state));
        Ok(Self { options, slots, cache, tables, buffers, state })
    }
}

impl Hot {
    /// Makes the operations of a hot cache on a runner, whose scratch the maker has.
    ///
    /// # Errors
    /// Errors of the device.
    pub(super) async fn new(
        maker: &mut OpMaker<'_>,
        runner: &Runner,
        cache: &Cache,
        kv: Arc<HotKv>,
    ) -> Result<Self> {
        let HotKv { options, slots, cache: segments, tables, buffers, state } = &*kv;
        let (layout, slots, state) = (segments.layout, *slots, state.lock().await);
        let (uploads, kv_type) = (&state.offload.uploads, options.kv_type);
        let parts = HotParts { buffers, uploads, slots, kv_type };
        let shared = maker.hot_shared_ops(&parts).await?;
        let mut layers = Vec::new();
        let weights = runner.model().layers().iter().zip(runner.layers());
        for (number, (weights, ops)) in weights.enumerate() {
            let (segments, table) = (&segments.layers()[number][..], &tables[number]);
            let wanted = buffers.wanted.layer(number);
            // In a replay nobody reads what level 1 chooses.
            let chosen = match maker.options.steered {
                None => wanted.clone(),
                Some(_) => Binding::from(&maker.scratch.chosen_blocks),
            };
            let blocks = Blocks::Hot(slots, table);
            let layer =
                LayerKv { layout, segments, blocks, window: None, chosen, candidates: wanted };
            let listed = buffers.listed.layer(number);
            let layer = HotLayer { number, kv: layer, table, listed };
            let index = cache.indices().get(number);
            let own = maker.hot_ops(&parts, &weights.attention, &layer, index, &shared).await?;
            layers.push(maker.layer(ops, &layer.kv, index, own).await?);
        }
        let unpack = maker.unpack(&parts).await?;
        drop(state);
        Ok(Self { kv, layers, unpack })
    }

    /// Takes it for the runner's turn. What nobody waited for any more is taken back first.
    pub(super) async fn turn<'e>(&'e self, engine: &'e Engine) -> HotTurn<'e> {
        let mut state = self.kv.state.lock().await;
        if state.unfinished.is_some() {
            // A device that cannot do this will not do what is asked next either.
            let _ = state.take_back(&engine.gpu).await;
        }
        HotTurn { engine, hot: &self.kv, ops: self, state }
    }

    /// The window and the hot cache.
    pub(super) fn cache(&self) -> &KvCache {
        &self.kv.cache
    }

    /// Blocks of one layer that arrive at a time.
    pub(super) fn piece_blocks(&self, shape: &Shape) -> u64 {
        let options = &self.kv.options;
        options.piece_blocks(&shape.head_format(options.kv_type))
    }
}

impl HotState {
    /// Takes back what has begun: it failed, or nobody waits for it any more.
    async fn take_back(&mut self, gpu: &Gpu) -> Result<()> {
        // What lands later would be counted for what is written then.
        let completed = self.offload.complete_all(gpu).await;
        for &block in self.unfinished.iter().flatten() {
            self.offload.forget(block);
        }
        self.abandon(gpu).await;
        self.unfinished = None;
        completed
    }

    /// Empties the hot cache. What was on its way when a step failed may not have been placed: no slot is relied on any more.
    async fn abandon(&mut self, gpu: &Gpu) {
        self.lag = None;
        for group in &mut self.groups {
            group.items.clear();
            for upload in group.uploads.drain(..) {
                self.offload.uploads.give_back(upload);
            }
            group.selection = None;
        }
        // A device that cannot answer this will not answer the next step either.
        let _ = self.selections.clear(gpu).await;
        self.offload.residents.clear();
        self.is_stale = true;
    }
}

/// The blocks that a step writes to as their first.
fn new_blocks<'a>(
    batch: &'a [(&mut Session, &[u32])],
    prepared: &'a [Prepared],
) -> impl Iterator<Item = u32> + 'a {
    batch.iter().zip(prepared).flat_map(|((session, _), prepared)| {
        let copied = prepared.copied.map(|(_, new)| new);
        session.table.added(prepared).iter().copied().chain(copied)
    })
}

impl HotTurn<'_> {
    /// What the offload engine did so far.
    pub(super) fn stats(&self) -> OffloadStats {
        self.state.offload.stats()
    }

    /// The blocks that level 1 chose in the latest step, of its first session: layer, KV head, logical blocks ascending.
    pub(super) fn fetched_blocks(&self) -> Option<Vec<Vec<Vec<u32>>>> {
        self.state.lag.as_ref()?.lists.iter().map(|rows| rows.first().cloned()).collect()
    }

    /// Forgets what the latest step chose: the next one does not continue it.
    pub(super) fn forget_choice(&mut self) {
        self.state.lag = None;
    }

    /// A step over prepared sessions, which all have the same role; none where `goes_on` told that it does not.
    pub(super) async fn step(
        &mut self,
        begun: &Begun<'_, '_, '_>,
        roles: &[Role],
        selection: Option<&TwoLevel>,
        goes_on: GoesOn<'_>,
    ) -> Result<Option<Output>> {
        let Some(&Role { attended, want }) = roles.first() else {
            return Ok(Some(Output::default()));
        };
        let Begun { batch, prepared } = begun;
        self.state.unfinished = Some(new_blocks(batch, prepared).collect());
        let result = async {
            self.state.offload.complete(&self.engine.gpu)?;
            self.take_new_blocks(batch, prepared).await?;
            match attended {
                Attended::Prompt => {
                    self.finish_pending().await?;
                    self.prefill_chunk(batch, want, goes_on).await
                }
                Attended::Dense => self.decode(batch, None, want).await.map(Some),
                Attended::Selected => self.decode(batch, selection, want).await.map(Some),
            }
        }
        .await;
        if matches!(result, Ok(Some(_))) {
            self.state.unfinished = None;
            return result;
        }
        let taken_back = self.state.take_back(&self.engine.gpu).await;
        result.and_then(|made| taken_back.map(|()| made))
    }

    // Blocks that were free hold nothing yet, whatever their numbers held before; a shared open block is copied for the one
    // that writes to it.
    async fn take_new_blocks(
        &mut self,
        batch: &[(&mut Session, &[u32])],
        prepared: &[Prepared],
    ) -> Result<()> {
        for block in new_blocks(batch, prepared) {
            self.state.is_stale |= self.state.offload.forget(block);
        }
        self.settle_slots().await?;
        for (old, new) in prepared.iter().filter_map(|prepared| prepared.copied) {
            self.copy_open_block(batch, old, new).await?;
        }
        Ok(())
    }

    // Says anew where blocks are, if that has changed.
    async fn settle_slots(&mut self) -> Result<()> {
        if self.state.is_stale {
            self.finish_pending().await?;
            self.write_slots();
        }
        Ok(())
    }

    // Says anew where every block is.
    fn write_slots(&mut self) {
        for (layer, table) in self.hot.tables.iter().enumerate() {
            let words = self.state.offload.residents.slot_words(layer);
            self.engine.gpu.write(table, 0, bytemuck::cast_slice(&words));
        }
        self.state.is_stale = false;
    }

    // Places what is on its way, so that no placement is pending.
    async fn finish_pending(&mut self) -> Result<()> {
        let mut encoder = self.engine.gpu.device.create_command_encoder(&Default::default());
        // Slots of the ring first.
        for group in 0..self.state.groups.len() {
            for upload in std::mem::take(&mut self.state.groups[group].uploads) {
                self.record_upload(&mut encoder, &upload);
            }
        }
        for group in 0..self.state.groups.len() {
            self.record_group(&mut encoder, group).await?;
            if let Some(slot) = self.state.groups[group].selection.take() {
                self.state.selections.wait(&self.engine.gpu, slot).await?;
                self.state.selections.read(slot, |_| Ok(()))?;
            }
        }
        self.state.lag = None;
        self.submit(&mut encoder)
    }
}
