//! Sealed blocks on their way out of a session, and into one that begins with the same tokens: for who keeps blocks elsewhere.

use super::{Part, SessionFormat, StoredKv};
use crate::attention::ChannelSet;
use crate::engine::{Engine, Session};
use crate::formats::KvType;
use crate::gpu::Gpu;
use crate::kv::{Gatherers, MappedRing};
use crate::memory::{Group, Row, Usage};
use crate::{Error, Result};
use std::ops::Range;
use std::sync::Arc;

/// Buffers of the ring: while one is copied from, the other one is filled.
const RING_SLOTS: u64 = 2;

/// Bytes of the blocks that each has at a time, of which all or a part come to the GPU, unless one block has more.
const RING_BYTES: u64 = 64 << 20;

/// The way of blocks to the GPU, made when the first one comes.
pub(crate) struct Arrivals {
    made: Option<(MappedRing, Gatherers)>,
    // RING_BYTES, but in tests.
    ring_bytes: u64,
}

impl Default for Arrivals {
    fn default() -> Self {
        Self { made: None, ring_bytes: RING_BYTES }
    }
}

impl Arrivals {
    async fn made(&mut self, gpu: &Gpu, bytes: u64) -> Result<&mut (MappedRing, Gatherers)> {
        let made = match self.made.take() {
            Some(made) => made,
            None => {
                let row = Row::new("the ring of blocks that arrive", bytes, &[]);
                let row = row.of(Group::Rings).used_as(Usage::Upload).times(RING_SLOTS);
                (MappedRing::new(gpu, &row).await?, Gatherers::new()?)
            }
        };
        Ok(self.made.insert(made))
    }
}

impl Engine {
    /// Whether blocks of this format are this engine's.
    pub(crate) fn has_format(&self, format: &SessionFormat) -> bool {
        format.is_of(&self.config, &self.options)
    }

    /// What keys and values are rounded to, wherever they live.
    pub(crate) fn stored_type(&self) -> KvType {
        self.options.host.map_or(KvType::F16, |host| host.kv_type)
    }

    /// Bytes of a sealed block: keys and values, its index, and the channels which that is built by, where sessions choose them.
    pub(crate) fn sealed_bytes(&self) -> usize {
        (self.record().bytes() + self.chosen_bytes()) as usize
    }

    /// How many blocks of a session another one could begin with.
    pub(crate) fn sealed_blocks(&self, session: &Session) -> u32 {
        match &self.options.index {
            _ if !self.is_reusable(session) => 0,
            Some(_) => session.indexed,
            None => session.len() / self.shape.block,
        }
    }

    // Bytes of the channels of all layers, where each session chooses its own.
    fn chosen_bytes(&self) -> u64 {
        let chooses = self.options.index.as_ref().is_some_and(|index| index.stored.is_none());
        if chooses { self.cache.indices().len() as u64 * self.shape.channels_len() * 4 } else { 0 }
    }

    /// Sealed blocks of a session, [`Self::sealed_bytes`] each. Few at a time: others wait meanwhile.
    ///
    /// # Errors
    /// Errors of the device.
    pub(crate) async fn read_sealed(
        &self,
        session: &Session,
        blocks: Range<usize>,
    ) -> Result<Vec<Vec<u8>>> {
        self.check_owner(session)?;
        let _turn = self.runner.turn().await;
        self.gpu.check()?;
        let mut kv = self.stored_kv().await;
        if let StoredKv::Hot(hot) = &mut kv {
            hot.complete().await?;
        }
        let blocks = &session.table.blocks()[blocks];
        let bytes = self.record().bytes();
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging =
            self.gpu.lend("blocks on their way", blocks.len() as u64 * bytes, usage).await?;
        let indexed = if self.options.index.is_some() { blocks.len() } else { 0 };
        let data = self.read_blocks(&kv, blocks, indexed, &staging).await?;
        let mut channels = Vec::new();
        if self.chosen_bytes() > 0
            && let Some(set) = &session.channels
        {
            let words = (0..set.layers.len()).flat_map(|layer| set.words(layer));
            channels.extend(words.flat_map(u32::to_ne_bytes));
        }
        let whole = |record: &[u8]| [record, &channels].concat();
        Ok(data.chunks_exact(bytes as usize).map(whole).collect())
    }

    /// Puts sealed blocks of these tokens, as [`Self::read_sealed`] gave them, behind the whole blocks that a session holds: how many,
    /// which are fewer where the index of one follows from other channels than that of those before. Nothing is computed.
    ///
    /// # Errors
    /// [`Error::Argument`] for tokens beyond the context or what is free; else what the device answers. The session is what it was.
    pub(crate) async fn append_sealed(
        &self,
        session: &mut Session,
        arrivals: &mut Arrivals,
        tokens: &[u32],
        blocks: &[Vec<u8>],
    ) -> Result<usize> {
        self.check_owner(session)?;
        let from = session.len();
        let to = from + tokens.len() as u32;
        if to > self.options.context {
            let limit = format!("the context holds {}", self.options.context);
            return Err(Error::argument("the session", format!("{to} tokens"), limit));
        }
        let (record, payload) = (self.record().bytes() as usize, self.sealed_bytes());
        let is_whole = blocks.iter().all(|block| block.len() == payload);
        if !is_whole
            || !from.is_multiple_of(self.shape.block)
            || blocks.len() as u32 != (to - from) / self.shape.block
        {
            let limit = format!("whole blocks of {payload} bytes follow whole blocks");
            return Err(Error::argument("the blocks for a session", blocks.len(), limit));
        }
        let Some(first) = blocks.first() else { return Ok(0) };
        let channels = &first[record..];
        let alike = blocks.iter().take_while(|block| block[record..] == *channels).count();
        let Some(chosen) = self.channels_for(session, channels) else { return Ok(0) };
        let records: Vec<&[u8]> = blocks[..alike].iter().map(|block| &block[..record]).collect();
        let tokens = &tokens[..alike * self.shape.block as usize];
        let _turn = self.runner.turn().await;
        self.gpu.check()?;
        let before = session.table.blocks().len();
        let prepared = session.table.prepare(from, from + tokens.len() as u32)?;
        session.table.commit(prepared);
        let put = self.put_records(&session.table.blocks()[before..], &records, arrivals).await;
        if let Err(error) = put {
            session.table.truncate(from);
            return Err(error);
        }
        if let Some(set) = chosen {
            self.take_channels(session, set);
        }
        session.tokens.extend_from_slice(tokens);
        if session.channels.is_some() {
            session.indexed = session.len() / self.shape.block;
        }
        Ok(alike)
    }

    // The channels in a block if a session takes them: nothing where it has them, `None` where it has others, or they are none.
    fn channels_for(&self, session: &Session, bytes: &[u8]) -> Option<Option<ChannelSet>> {
        if bytes.is_empty() {
            return Some(None);
        }
        let words: Vec<u32> = bytemuck::pod_collect_to_vec(bytes);
        let layer = self.shape.channels_len() as usize;
        let set = ChannelSet::from_words(&self.shape, words.chunks_exact(layer));
        match &session.channels {
            Some(own) => (**own == set).then_some(None),
            None => set.check().is_ok().then_some(Some(set)),
        }
    }

    // Makes them the session's.
    fn take_channels(&self, session: &mut Session, set: ChannelSet) {
        let at = u64::from(session.slot.index) * self.shape.channels_len() * 4;
        for (number, index) in self.cache.indices().iter().enumerate() {
            self.gpu.write(&index.state.channels, at, bytemuck::cast_slice(&set.words(number)));
        }
        session.channels = Some(Arc::new(set));
        session.counted = self.least_reused();
        session.is_miscounted = false;
    }

    // Brings records to where blocks of the pool live.
    async fn put_records(
        &self,
        blocks: &[u32],
        records: &[&[u8]],
        arrivals: &mut Arrivals,
    ) -> Result<()> {
        let mut kv = self.stored_kv().await;
        let record = self.record();
        let kv_bytes = record.kv_bytes();
        if let StoredKv::Hot(hot) = &mut kv {
            hot.take_blocks(blocks).await?;
            let halves = records.iter().map(|record| &record[..kv_bytes as usize]);
            hot.write_all_to_host(blocks, &halves.collect::<Vec<_>>())?;
        }
        // What of a block is on the GPU: where keys and values are the CPU's, its index alone.
        let parts = |block: u32| match &kv {
            StoredKv::Whole(whole) => self.parts(whole.kv.blocks(), block),
            StoredKv::Hot(_) => self.index_parts(block),
        };
        let bytes_of = |block: &u32| parts(*block).iter().map(|part| part.bytes).sum();
        let bytes: u64 = blocks.first().map_or(0, bytes_of);
        if bytes == 0 {
            return Ok(());
        }
        let at_once = (arrivals.ring_bytes / record.bytes()).max(1);
        let (ring, gatherers) = arrivals.made(&self.gpu, at_once * bytes).await?;
        let mut came: Vec<(u32, &[u8])> =
            blocks.iter().copied().zip(records.iter().copied()).collect();
        // Neighbours together, whatever the order in which the pool gives them.
        came.sort_unstable_by_key(|(block, _)| *block);
        for came in came.chunks(at_once as usize) {
            let stuck = || Error::Gpu("no slot of the ring of blocks comes back".into());
            let slot = ring.take(&self.gpu).await?.ok_or_else(stuck)?;
            let parts: Vec<Vec<Part<'_>>> = came.iter().map(|(block, _)| parts(*block)).collect();
            // Threads share all parts: a write of each would be a buffer of its own.
            let moves = moves(&parts, came);
            let contents: Vec<&[u8]> = moves.iter().map(|(_, content)| *content).collect();
            let encoder = ring.fill(slot, &contents, gatherers, || {
                let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
                copy(&mut encoder, ring.buffer(slot), &moves);
                encoder
            })?;
            ring.send(slot, came.len() as u64 * bytes, &encoder);
            ring.submitted(&self.gpu.submit(encoder)?);
        }
        Ok(())
    }
}

// Where the contents of blocks that came go, part by part, of each part block by block.
fn moves<'p, 'r>(
    parts: &'p [Vec<Part<'p>>],
    came: &[(u32, &'r [u8])],
) -> Vec<(&'p Part<'p>, &'r [u8])> {
    let count = parts.first().map_or(0, Vec::len);
    let of_part = |at: usize| {
        parts.iter().zip(came).map(move |(parts, (_, record))| {
            let part = &parts[at];
            (part, &record[part.in_block as usize..][..part.bytes as usize])
        })
    };
    (0..count).flat_map(of_part).collect()
}

// Copies what was written one after the other. What lies side by side where it goes to as well is one copy, so that of six blocks of 36
// layers there are 72 and not 432, each of which has to be recorded and checked.
fn copy(encoder: &mut wgpu::CommandEncoder, from: &wgpu::Buffer, moves: &[(&Part<'_>, &[u8])]) {
    let is_beside = |(before, _): &(&Part<'_>, &[u8]), (after, _): &(&Part<'_>, &[u8])| {
        before.buffer == after.buffer && before.at + before.bytes == after.at
    };
    let mut at = 0;
    for run in moves.chunk_by(is_beside) {
        let bytes: u64 = run.iter().map(|(part, _)| part.bytes).sum();
        encoder.copy_buffer_to_buffer(from, at, run[0].0.buffer, run[0].0.at, bytes);
        at += bytes;
    }
}

#[cfg(test)]
mod tests;
