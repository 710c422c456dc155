//! The KV cache's part of a memory plan. Pure.

use super::{CacheLayout, HostOptions};
use crate::Result;
use crate::attention::{Shape, Summary};
use crate::formats::KvType;
use crate::gpu::{Gpu, buffers};
use crate::kernels::HotSlots;
use crate::memory::{Group, Grows, Row, Usage};

/// The rows of something that each physical block has in each layer.
#[derive(Clone, Debug)]
pub(crate) struct SegmentRows {
    /// Of every segment but the last.
    full: Row,
    last: Row,
    pub(crate) layout: CacheLayout,
}

impl SegmentRows {
    /// `row` is of one block.
    pub(crate) fn new(row: Row, layout: CacheLayout, layers: u32) -> Self {
        let segment = |blocks: u32, count: u32| Row {
            bytes: row.bytes.saturating_mul(blocks.into()),
            count: u64::from(count) * u64::from(layers),
            ..row.clone()
        };
        let before = layout.segments - 1;
        Self {
            full: segment(layout.segment_blocks, before),
            last: segment(layout.segment(before).blocks, 1),
            layout,
        }
    }

    /// Makes the segments of a layer.
    pub(crate) async fn allocate(&self, gpu: &Gpu) -> Result<Vec<wgpu::Buffer>> {
        let mut segments = Vec::new();
        for _ in 1..self.layout.segments {
            segments.push(gpu.allocate(&self.full).await?);
        }
        segments.push(gpu.allocate(&self.last).await?);
        Ok(segments)
    }

    pub(crate) fn rows(&self) -> [&Row; 2] {
        [&self.full, &self.last]
    }
}

buffers! {
    /// What a layer keeps of each session, by session slot.
    pub(crate) struct IndexState {
        /// By which its index channels are chosen.
        stats,
        /// The channels.
        channels,
    }
}

/// The rows of keys and values on the GPU: of so many blocks, or slots of a hot cache, in every layer.
pub(crate) fn kv_rows(shape: &Shape, layers: u32, blocks: u32, max_binding: u64) -> SegmentRows {
    let bytes = shape.block_bytes();
    let row = Row::new("the key and value cache", bytes, BY_BLOCK).of(Group::KvCache);
    SegmentRows::new(row, CacheLayout::new(bytes, blocks, max_binding), layers)
}

/// The rows of an index.
pub(crate) struct IndexRows {
    pub(crate) codes: SegmentRows,
    pub(crate) summaries: Vec<(&'static Summary, SegmentRows)>,
    pub(crate) state: IndexState<Row>,
}

/// What an index is for.
pub(crate) struct IndexSize<'s> {
    pub(crate) shape: &'s Shape,
    pub(crate) layers: u32,
    pub(crate) sessions: u32,
    /// Physical blocks.
    pub(crate) blocks: u32,
    /// The most bytes of a buffer that a kernel sees.
    pub(crate) max_binding: u64,
}

impl IndexRows {
    /// The rows of an index that keeps these summaries.
    pub(crate) fn new(size: &IndexSize<'_>, summaries: &[&'static Summary]) -> Self {
        let IndexSize { shape, layers, .. } = *size;
        let of_code = shape.block_code_bytes();
        // All of them have the same segments.
        let of_summaries = summaries.iter().map(|summary| summary.block_bytes(shape));
        let most = of_summaries.fold(of_code, u64::max);
        let layout = CacheLayout::new(most, size.blocks, size.max_binding);
        let segments = |what: String, bytes: u64| {
            let row = Row::new(what, bytes, &[Grows::Tokens, Grows::Sessions, Grows::Layers]);
            SegmentRows::new(row.of(Group::Index), layout, layers)
        };
        let of_session = |what: &'static str, length: u64| {
            let row = Row::words(what, &[size.sessions.into(), length], BY_SESSION);
            row.times(layers.into())
        };
        let summary = |summary: &'static Summary| {
            let what = format!("the block {}", summary.name);
            (summary, segments(what, summary.block_bytes(shape)))
        };
        Self {
            codes: segments("the index".into(), of_code),
            summaries: summaries.iter().map(|&kept| summary(kept)).collect(),
            state: IndexState {
                stats: of_session("channel statistics", shape.stats_len()),
                channels: of_session("index channels", shape.channels_len()),
            },
        }
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = &Row> {
        let summaries = self.summaries.iter().flat_map(|(_, summary)| summary.rows());
        self.codes.rows().into_iter().chain(summaries).chain(self.state.rows())
    }
}

const BY_BLOCK: &[Grows] = &[Grows::Tokens, Grows::Sessions, Grows::Layers, Grows::HotBlocks];
const BY_SESSION: &[Grows] = &[Grows::Sessions, Grows::Layers];

/// The rows of a hot cache's bookkeeping, and of what carries blocks to the GPU and from there.
pub(crate) struct OffloadRows {
    /// Where each block is, layer by layer.
    pub(crate) table: Row,
    pub(crate) ring: Row,
    pub(crate) write_back: Row,
    /// The place of blocks that arrive and are not stored as f16.
    pub(crate) packed: Option<Row>,
    pub(crate) arrived: Row,
    /// Blocks in CPU memory, each of one layer.
    pub(crate) host: Row,
}

/// Bytes of a ring's slot that carries so many.
pub(crate) fn slot_bytes(bytes: u64) -> u64 {
    bytes.checked_next_multiple_of(256).unwrap_or(u64::MAX)
}

// Slots of the ring that blocks are written back in.
const WRITE_BACK_SLOTS: u64 = 3;

impl OffloadRows {
    /// The rows of a hot cache of these slots, from which `write_back_blocks` of one layer are written back at a time.
    pub(crate) fn new(
        options: &HostOptions,
        shape: &Shape,
        (slots, layers): (HotSlots, u32),
        write_back_blocks: u32,
    ) -> Self {
        let format = shape.head_format(options.kv_type);
        let ring = |what: &'static str, bytes: u64, usage, grows_with| {
            Row::new(what, slot_bytes(bytes), grows_with).of(Group::Rings).used_as(usage)
        };
        let carrier = ring("the ring", options.ring_bytes, Usage::Upload, &[]);
        let whole = options.piece_blocks(&format).saturating_mul(shape.block_bytes());
        let (arrived, packed) = match options.kv_type {
            KvType::F16 => (carrier.bytes, None),
            KvType::Q8_0 => (whole, Some(carrier.bytes)),
        };
        let arrival = |what: &'static str, bytes| Row::new(what, bytes, &[]).of(Group::Rings);
        let written_back = u64::from(write_back_blocks) * shape.block_bytes();
        let by_step = &[Grows::Chunk, Grows::Context, Grows::Sessions];
        let host_blocks = u64::from(slots.pool_blocks) * u64::from(layers);
        let words = slots.words(shape.kv_heads);
        let by_block = &[Grows::Tokens, Grows::Sessions, Grows::Layers];
        Self {
            table: Row::words("slots of the hot cache", &[words], BY_BLOCK)
                .of(Group::KvCache)
                .times(layers.into()),
            write_back: ring(
                "blocks that are written back",
                written_back,
                Usage::ReadBack,
                by_step,
            )
            .times(WRITE_BACK_SLOTS),
            packed: packed.map(|bytes| arrival("what arrived, as it is stored", bytes)),
            arrived: arrival("what arrived", arrived),
            ring: carrier.times(options.ring_slots.into()),
            host: Row::new("the host cache", format.block_bytes(), by_block)
                .of(Group::Host)
                .used_as(Usage::Plain)
                .times(host_blocks),
        }
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = &Row> {
        [&self.table, &self.ring, &self.write_back, &self.arrived, &self.host]
            .into_iter()
            .chain(&self.packed)
    }
}
