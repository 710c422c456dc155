//! Sessions on disk: a file's block is all that the engine holds of a block of tokens, keys, values and index, wherever it
//! lay, and the file's state is what index channels follow from. A session that is loaded goes on as if it had never left
//! the device, on whatever device and with whatever cache it goes on.

mod format;
mod rescue;
mod sealed;
mod state;

pub use format::SessionFormat;
pub(crate) use sealed::Arrivals;

use super::host::HotTurn;
use super::residency::{Residency, Whole};
use super::{Engine, Session};
use crate::attention::ChannelSet;
use crate::gpu::Gpu;
use crate::kv::{KvCache, SessionFile};
use crate::{Error, Result};
use format::Record;
use state::IndexState;
use std::sync::Arc;

/// Bytes that are read back at a time, unless one block has more.
const PIECE_BYTES: u64 = 16 << 20;

/// The part of a session that a file holds, by the file's stamp: blocks from the first on that nothing will change.
#[derive(Clone, Copy, Debug)]
pub(super) struct Saved {
    stamp: u64,
    pub(super) blocks: u32,
}

/// A run of a saved block's bytes on the GPU.
struct Part<'a> {
    buffer: &'a wgpu::Buffer,
    at: u64,
    in_block: u64,
    bytes: u64,
}

/// Where blocks are read from and written to.
enum StoredKv<'e> {
    Whole(&'e Whole),
    Hot(HotTurn<'e>),
}

impl Engine {
    /// Writes a session to a file of its [`SessionFormat`], and with it the caller's own state: the blocks that the file
    /// does not hold yet, and the commit that makes them count. `progress` is called with bytes as they are written.
    ///
    /// Of a session whose device is lost, what the host cache holds is saved: its sealed blocks, as far as they had left the
    /// GPU. It goes on from there.
    ///
    /// # Errors
    /// [`Error::Write`] for a file that cannot be written, [`Error::Argument`] for a file of other blocks, else what the
    /// device answers. The file then holds what it held.
    pub async fn save(
        &self,
        session: &mut Session,
        file: &mut SessionFile,
        state: &[u8],
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<()> {
        self.check_owner(session)?;
        self.recount(session).await?;
        let _turn = self.runner.turn().await;
        let mut kv = self.stored_kv().await;
        match (self.gpu.check(), &kv) {
            (Err(lost), StoredKv::Hot(hot)) if lost.is_loss() => {
                return self.save_held(hot, lost, session, (file, state), progress);
            }
            (checked, _) => checked?,
        }
        if let StoredKv::Hot(hot) = &mut kv {
            hot.complete().await?;
        }
        let state = self.index_state(session).await?.before(state);
        let record = self.record();
        let table = session.table.blocks();
        let there = session.saved.filter(|saved| saved.stamp == file.stamp());
        let mut next = there.map_or(0, |saved| saved.blocks);
        let missing = &table[next as usize..];
        let piece = (PIECE_BYTES / record.bytes()).clamp(1, missing.len().max(1) as u64);
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = self.gpu.lend("blocks on their way", piece * record.bytes(), usage).await?;
        let mut append = file.append()?;
        for blocks in missing.chunks(piece as usize) {
            let indexed = session.indexed.saturating_sub(next) as usize;
            let data = self.read_blocks(&kv, blocks, indexed, &staging).await?;
            for content in data.chunks_exact(record.bytes() as usize) {
                append.block(next, content)?;
                next += 1;
                progress(record.bytes());
            }
        }
        append.commit(next, &session.tokens, &state)?;
        // An index that is still to be built changes a block; the open block changes with the next token.
        let lasting = match self.options.index {
            Some(_) => session.indexed,
            None => session.len() / self.shape.block,
        };
        session.saved = Some(Saved { stamp: file.stamp(), blocks: lasting });
        Ok(())
    }

    /// The session that a file of this engine's [`SessionFormat`] holds, and the error of its first damaged block if there
    /// is one: then the session ends before that, the file's tokens tell what to compute again, and the next
    /// [`Engine::save`] replaces the block. Nothing is computed here. `progress` is called with bytes as they are read.
    ///
    /// # Errors
    /// [`Error::Argument`] for a session longer than the context, and when all sessions are in use; [`Error::File`] for a
    /// file whose state is damaged; else what the device answers.
    pub async fn restore(
        &self,
        file: &SessionFile,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<(Session, Option<Error>)> {
        let mut session = self.session()?;
        if file.tokens().is_empty() {
            return Ok((session, None));
        }
        self.check_saved(file, &session)?;
        let state = IndexState::of(file)?;
        self.write_index_state(file, &mut session, &state)?;
        let _turn = self.runner.turn().await;
        self.gpu.check()?;
        let prepared = session.table.prepare(0, file.tokens().len() as u32)?;
        session.table.commit(prepared);
        session.tokens = file.tokens().to_vec();
        let sealed = session.len() / self.shape.block;
        session.indexed = if session.channels.is_some() { sealed.min(state.indexed) } else { 0 };
        let mut kv = self.stored_kv().await;
        if let StoredKv::Hot(hot) = &mut kv {
            hot.take_blocks(session.table.blocks()).await?;
        }
        let record = self.record();
        let (what, usage) = ("a block that arrives", Gpu::STORAGE);
        let arriving = self.gpu.lend(what, record.bytes(), usage).await?;
        let mut before = None;
        let mut damage = None;
        for (i, &block) in (0..).zip(session.table.blocks()) {
            let content = match file.block(i) {
                Ok(content) => content,
                Err(error) => {
                    damage = Some((i, error));
                    break;
                }
            };
            let is_indexed = i < session.indexed;
            let index = self.write_block(&mut kv, block, content, is_indexed, &arriving)?;
            // One block is copied while the next is read, and no more of them wait.
            if let Some(before) = before.replace(index) {
                self.gpu.wait(before).await?;
            }
            progress(record.bytes());
        }
        if let Some(last) = before {
            self.gpu.wait(last).await?;
        }
        drop((arriving, kv));
        session.saved = Some(Saved { stamp: file.stamp(), blocks: sealed });
        let damage = match damage {
            None => None,
            Some((block, error)) => {
                session.rewind(block * self.shape.block)?;
                Some(error)
            }
        };
        let sealed = session.len() / self.shape.block;
        if session.channels.is_some() && session.indexed < sealed {
            self.build_index(&session).await?;
            session.indexed = sealed;
        }
        if let Some(saved) = session.saved.as_mut().filter(|_| self.options.index.is_some()) {
            saved.blocks = session.indexed;
        }
        Ok((session, damage))
    }

    fn record(&self) -> Record {
        Record::new(&self.shape, self.config.layers, self.options.index.as_ref())
    }

    // Whether this engine can hold what a file says it has.
    fn check_saved(&self, file: &SessionFile, session: &Session) -> Result<()> {
        let tokens = file.tokens();
        if tokens.len() > self.options.context as usize {
            let what = format!("the session {}", file.path().display());
            let limit = format!("the context holds {}", self.options.context);
            return Err(Error::argument(what, format!("{} tokens", tokens.len()), limit));
        }
        self.check_tokens(session, tokens)?;
        let (there, own) = (file.block_bytes(), self.record().bytes());
        if there != own {
            let limit = format!("this engine's have {own}");
            return Err(Error::argument("the bytes of a session's block", there, limit));
        }
        let needed = (tokens.len() as u32).div_ceil(self.shape.block);
        if file.blocks() != needed {
            let (there, tokens) = (file.blocks(), tokens.len());
            let problem = format!("{tokens} tokens are in {there} blocks, but they take {needed}");
            return Err(state::damaged(file, problem));
        }
        Ok(())
    }

    // The state that the index of a session follows from. Under the turn of the caller.
    async fn index_state(&self, session: &Session) -> Result<IndexState> {
        if let Some(set) = &session.channels {
            return Ok(IndexState::chosen(set, session.indexed, session.counted));
        }
        let mut state = IndexState { counted: session.counted, ..IndexState::default() };
        if !session.is_empty() {
            state.statistics = self.read_statistics(session.slot.index).await?;
        }
        Ok(state)
    }

    // Puts what the index follows from into the session's slot.
    fn write_index_state(
        &self,
        file: &SessionFile,
        session: &mut Session,
        state: &IndexState,
    ) -> Result<()> {
        let slot = u64::from(session.slot.index);
        let indexed = self.cache.indices();
        let lengths = [self.shape.channels_len(), self.shape.stats_len()].map(|n| n as usize);
        let whole = lengths.map(|words| words * indexed.len());
        let found = [state.channels.len(), state.statistics.len()];
        // One of the two, or nothing where nothing is indexed.
        if found != [whole[0], 0] && found != [0, whole[1]] {
            let problem = format!(
                "the index follows from {} words of channels or {} of statistics, but there are {} and {}",
                whole[0], whole[1], found[0], found[1]
            );
            return Err(state::damaged(file, problem));
        }
        if state.counted as usize > file.tokens().len() {
            let (counted, tokens) = (state.counted, file.tokens().len());
            let problem =
                format!("the index follows from {counted} tokens, but there are {tokens}");
            return Err(state::damaged(file, problem));
        }
        session.counted = state.counted;
        if !state.channels.is_empty() {
            let layers = state.channels.chunks_exact(lengths[0]);
            let set = ChannelSet::from_words(&self.shape, layers);
            set.check().map_err(|problem| state::damaged(file, problem))?;
            session.channels = Some(Arc::new(set));
        }
        for (i, index) in indexed.iter().enumerate() {
            for (buffer, words, length) in [
                (&index.state.channels, &state.channels, lengths[0]),
                (&index.state.stats, &state.statistics, lengths[1]),
            ] {
                if !words.is_empty() {
                    let layer = &words[i * length..][..length];
                    self.gpu.write(buffer, slot * length as u64 * 4, bytemuck::cast_slice(layer));
                }
            }
        }
        Ok(())
    }

    // The keys and values, for the turn.
    async fn stored_kv(&self) -> StoredKv<'_> {
        match &self.residency {
            Residency::Whole(whole) => StoredKv::Whole(whole),
            Residency::Hot(hot) => StoredKv::Hot(hot.turn(self).await),
        }
    }

    // Blocks as the file has them, of which the first `indexed` have an index.
    async fn read_blocks(
        &self,
        kv: &StoredKv<'_>,
        blocks: &[u32],
        indexed: usize,
        staging: &wgpu::Buffer,
    ) -> Result<Vec<u8>> {
        let record = self.record();
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        for (i, &block) in blocks.iter().enumerate() {
            let on_gpu = match kv {
                StoredKv::Whole(whole) => self.kv_parts(whole.kv.blocks(), block),
                StoredKv::Hot(hot) => match hot.host_holds(block) {
                    true => Vec::new(),
                    false => self.kv_parts(hot.cache(), hot.window_slot(block)?),
                },
            };
            let index = (i < indexed).then(|| self.index_parts(block));
            for part in on_gpu.into_iter().chain(index.into_iter().flatten()) {
                let to = i as u64 * record.bytes() + part.in_block;
                encoder.copy_buffer_to_buffer(part.buffer, part.at, staging, to, part.bytes);
            }
        }
        self.gpu.submit(encoder)?;
        let mut data = self.gpu.read(staging, blocks.len() as u64 * record.bytes()).await?;
        for (i, content) in data.chunks_exact_mut(record.bytes() as usize).enumerate() {
            let (halves, index) = content.split_at_mut(record.kv_bytes() as usize);
            if let StoredKv::Hot(hot) = kv
                && hot.host_holds(blocks[i])
            {
                hot.read_from_host(blocks[i], halves);
            }
            if i >= indexed {
                index.fill(0);
            }
        }
        Ok(data)
    }

    // Brings a file's block to where a block of the pool lives.
    fn write_block(
        &self,
        kv: &mut StoredKv<'_>,
        block: u32,
        content: &[u8],
        is_indexed: bool,
        arriving: &wgpu::Buffer,
    ) -> Result<wgpu::SubmissionIndex> {
        let kv_bytes = self.record().kv_bytes() as usize;
        let (to, from) = match kv {
            StoredKv::Whole(whole) => (self.kv_parts(whole.kv.blocks(), block), 0),
            StoredKv::Hot(hot) => {
                // The open block too, as after a rewind into it: the window takes it from there.
                hot.write_to_host(block, &content[..kv_bytes])?;
                (Vec::new(), kv_bytes)
            }
        };
        let index = is_indexed.then(|| self.index_parts(block));
        if from < content.len() {
            self.gpu.write(arriving, from as u64, &content[from..]);
        }
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        for part in to.into_iter().chain(index.into_iter().flatten()) {
            encoder.copy_buffer_to_buffer(
                arriving,
                part.in_block,
                part.buffer,
                part.at,
                part.bytes,
            );
        }
        self.gpu.submit(encoder)
    }

    // The keys and values in a slot of a cache.
    fn kv_parts<'a>(&self, cache: &'a KvCache, slot: u32) -> Vec<Part<'a>> {
        let bytes = self.shape.block_bytes();
        let part = |layer: usize| {
            let (buffer, at) = cache.place(layer, slot);
            Part { buffer, at, in_block: layer as u64 * bytes, bytes }
        };
        (0..cache.layers().len()).map(part).collect()
    }

    // All of a block whose keys and values are in a slot of the same number.
    fn parts<'a>(&'a self, cache: &'a KvCache, block: u32) -> Vec<Part<'a>> {
        self.kv_parts(cache, block).into_iter().chain(self.index_parts(block)).collect()
    }

    // The index of a block.
    fn index_parts(&self, block: u32) -> Vec<Part<'_>> {
        let record = self.record();
        let mut in_block = record.kv_bytes();
        let mut parts = Vec::new();
        for index in self.cache.indices() {
            let (segment, place) = index.layout.place(block);
            let codes = std::iter::once((&index.codes, record.codes));
            let summaries = index.summaries.iter().map(|(_, segments)| segments);
            let summaries = summaries.zip(record.summaries.iter().copied());
            for (segments, bytes) in codes.chain(summaries) {
                if bytes > 0 {
                    let (buffer, at) = (&segments[segment as usize], u64::from(place) * bytes);
                    parts.push(Part { buffer, at, in_block, bytes });
                    in_block += bytes;
                }
            }
        }
        parts
    }
}
