//! Blocks on their way from the directory into a session.

use super::directory::Directory;
use super::file::Absent;
use super::key::{Chain, Link};
use super::{Prefix, Shared};
use crate::Result;
use crate::engine::{Arrivals, Engine, Session};
use futures::channel::oneshot::{self, Receiver};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// Bytes that are read at a time, by many threads, or one block.
const PIECE_BYTES: usize = 256 << 20;

/// What is on its way to the session of a request.
pub(in crate::serve) struct Arriving {
    /// The blocks that are still to be read.
    rest: Range<usize>,
    /// Those that are being read.
    reading: Receiver<Read>,
    /// Whether they count as found: it is the first time that the request begins.
    pub(in crate::serve) counts: bool,
    /// Tokens that came so far.
    pub(in crate::serve) came: u32,
}

/// What was read of consecutive blocks: fewer than were asked for where the beginning ends there.
struct Read {
    payloads: Vec<Vec<u8>>,
    asked: usize,
}

impl Prefix {
    /// How many blocks of a chain's first the directory has.
    pub(in crate::serve) fn find(&self, chain: &Chain, most: usize) -> usize {
        let mut there = 0..most.min(chain.blocks());
        // Blocks go from the end, so those that are there are the first. Where that is not so, reading ends before.
        while !there.is_empty() {
            let middle = there.start + there.len() / 2;
            if self.directory.contains(&chain.link(middle)) {
                there.start = middle + 1;
            } else {
                there.end = middle;
            }
        }
        there.start
    }

    /// Begins to read blocks of a conversation with these tokens.
    pub(in crate::serve) fn arrive(
        &mut self,
        chain: &Chain,
        tokens: &[u32],
        blocks: Range<usize>,
        counts: bool,
    ) -> Arriving {
        self.touch(chain, 0..blocks.end);
        let (reading, rest) = self.ask(chain, tokens, blocks);
        Arriving { rest, reading, counts, came: 0 }
    }

    /// The most tokens that come at a time.
    pub(in crate::serve) fn piece_tokens(&self) -> u32 {
        self.scheme.length(self.piece())
    }

    fn piece(&self) -> usize {
        (PIECE_BYTES / self.payload).max(1)
    }

    // Has a piece read; what is left.
    fn ask(
        &self,
        chain: &Chain,
        tokens: &[u32],
        blocks: Range<usize>,
    ) -> (Receiver<Read>, Range<usize>) {
        let middle = blocks.end.min(blocks.start + self.piece());
        let (asked, rest) = (blocks.start..middle, middle..blocks.end);
        let of = |block| (chain.link(block), self.scheme.tokens(tokens, block).to_vec());
        let wanted: Vec<(Link, Vec<u32>)> = asked.map(of).collect();
        let (directory, shared) = (self.directory.clone(), self.shared.clone());
        let (payload, (sender, reading)) = (self.payload, oneshot::channel());
        self.readers.spawn(move || {
            if !sender.is_canceled() {
                // Nobody waits for what a request asked that was cancelled since.
                let _ = sender.send(read(&directory, &shared, &wanted, payload));
            }
        });
        (reading, rest)
    }

    /// Brings what was read since the last time to the end of a session; with `waits` something has to come first. Whether
    /// more is on its way.
    ///
    /// # Errors
    /// Errors of the device; [`crate::Error::Argument`] where room for blocks is missing. The session holds what came before.
    pub(in crate::serve) async fn take(
        &mut self,
        (engine, arrivals): (&Engine, &mut Arrivals),
        (session, tokens): (&mut Session, &[u32]),
        chain: &mut Chain,
        arriving: &mut Arriving,
        waits: bool,
    ) -> Result<bool> {
        let read = if waits {
            (&mut arriving.reading).await.ok()
        } else {
            match arriving.reading.try_recv() {
                Ok(None) => return Ok(true),
                read => read.ok().flatten(),
            }
        };
        // A thread that panicked reads no more.
        let Some(Read { payloads, asked }) = read else { return Ok(false) };
        let is_whole = payloads.len() == asked;
        let goes_on = is_whole && !arriving.rest.is_empty();
        if goes_on {
            // The next piece is read while this one goes its way.
            (arriving.reading, arriving.rest) = self.ask(chain, tokens, arriving.rest.clone());
        }
        let first = (session.len() / engine.options.block) as usize;
        let end = first + payloads.len();
        let new = &tokens[session.len() as usize..self.scheme.length(end) as usize];
        let taken = engine.append_sealed(session, arrivals, new, &payloads).await?;
        chain.stored = first + taken;
        arriving.came += self.scheme.length(taken);
        // The index of one is not that of the blocks before it. Where these came from elsewhere, it may be good for others.
        if 0 < taken && taken < payloads.len() {
            self.directory.remove(&chain.link(first + taken));
            self.shared.change(|stats| stats.prefix.damaged += 1);
        }
        Ok(goes_on && taken == payloads.len())
    }
}

fn read(
    directory: &Directory,
    shared: &Arc<Shared>,
    wanted: &[(Link, Vec<u32>)],
    payload: usize,
) -> Read {
    let all = wanted.par_iter().map(|(link, tokens)| directory.read(link, tokens, payload));
    let mut payloads = Vec::with_capacity(wanted.len());
    for (read, (link, _)) in all.collect::<Vec<_>>().into_iter().zip(wanted) {
        match read {
            Ok(payload) => payloads.push(payload),
            Err(Absent::Unreadable) => break,
            Err(Absent::Damaged) => {
                directory.remove(link);
                shared.change(|stats| stats.prefix.damaged += 1);
                break;
            }
        }
    }
    let bytes: usize = payloads.iter().map(Vec::len).sum();
    shared.change(|stats| stats.prefix.read_bytes += bytes as u64);
    Read { payloads, asked: wanted.len() }
}
