//! Blocks on their way from the directory into a session.

use super::Prefix;
use super::key::{Chain, Link};
use super::reading::{Read, Wanted};
use crate::Result;
use crate::engine::{Arrivals, Engine, Session};
use futures::FutureExt;
use futures::channel::oneshot::Receiver;
use std::ops::Range;
use std::task::{Context, Poll};

/// Bytes that are read at a time, by many threads, or one block.
const PIECE_BYTES: usize = 256 << 20;

/// Bytes that all requests together have in CPU memory of what arrives: while one piece goes its way another one is read.
pub(super) const MOST_BYTES: usize = 2 * PIECE_BYTES;

/// What is on its way to the session of a request.
pub(in crate::serve) struct Arriving {
    stage: Stage,
    /// What came, and was not taken yet.
    came: Option<Came>,
}

enum Stage {
    /// It is looked for how many of its first blocks there are.
    Looking(Receiver<usize>),
    /// A piece is being read, before these blocks.
    Reading(Receiver<Read>, Range<usize>),
}

enum Came {
    Found(usize),
    /// Nothing where the thread that read panicked.
    Read(Option<Read>),
}

impl Arriving {
    /// Whether something came; else who asks is woken once it does.
    pub(in crate::serve) fn poll(&mut self, context: &mut Context<'_>) -> bool {
        if self.came.is_none() {
            self.came = match &mut self.stage {
                Stage::Looking(found) => match found.poll_unpin(context) {
                    Poll::Ready(found) => Some(Came::Found(found.unwrap_or(0))),
                    Poll::Pending => None,
                },
                Stage::Reading(read, _) => match read.poll_unpin(context) {
                    Poll::Ready(read) => Some(Came::Read(read.ok())),
                    Poll::Pending => None,
                },
            };
        }
        self.came.is_some()
    }

    /// The blocks that came, for which there has to be room.
    pub(in crate::serve) fn blocks(&self) -> usize {
        match &self.came {
            Some(Came::Read(Some(read))) => read.payloads.len(),
            _ => 0,
        }
    }
}

impl Prefix {
    /// Begins to look for the first `most` blocks of a chain.
    pub(in crate::serve) fn arrive(&self, chain: &Chain, most: usize) -> Arriving {
        let links: Vec<Link> = (0..most.min(chain.blocks())).map(|at| chain.link(at)).collect();
        let places = self.places.clone();
        let found = self.files.ask(move || places.find(&links));
        Arriving { stage: Stage::Looking(found), came: None }
    }

    // Has a piece of these blocks read.
    fn read(&self, chain: &Chain, tokens: &[u32], blocks: Range<usize>) -> Stage {
        let piece = (PIECE_BYTES / self.payload).max(1);
        let middle = blocks.end.min(blocks.start + piece);
        let of = |block| (chain.link(block), self.scheme.tokens(tokens, block).to_vec());
        let wanted: Vec<Wanted> = (blocks.start..middle).map(of).collect();
        Stage::Reading(self.reader.ask(wanted, self.payload, chain.used), middle..blocks.end)
    }

    /// Brings what came to the end of a session, which begins with whole blocks from then on: how many tokens, and whether
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
    ) -> Result<(u32, bool)> {
        let first = (session.len() / engine.options.block) as usize;
        let read = match arriving.came.take() {
            None => return Ok((0, true)),
            Some(Came::Found(found)) => {
                if self.scheme.length(found) <= session.len() {
                    return Ok((0, false));
                }
                // Behind whole blocks that are enough to choose its channels by.
                let is_enough = self.scheme.length(first) >= engine.least_reused();
                let first = if is_enough { first } else { 0 };
                session.rewind(self.scheme.length(first))?;
                self.touch(chain, 0..found);
                arriving.stage = self.read(chain, tokens, first..found);
                return Ok((0, true));
            }
            Some(Came::Read(None)) => return Ok((0, false)),
            Some(Came::Read(Some(read))) => read,
        };
        self.make_room();
        let rest = match &arriving.stage {
            Stage::Reading(_, rest) => rest.clone(),
            Stage::Looking(_) => 0..0,
        };
        let goes_on = read.payloads.len() == read.asked && !rest.is_empty();
        if goes_on {
            // The next piece is read while this one goes its way, where there is room for both.
            arriving.stage = self.read(chain, tokens, rest);
        }
        let end = first + read.payloads.len();
        let new = &tokens[session.len() as usize..self.scheme.length(end) as usize];
        let taken = engine.append_sealed(session, arrivals, new, &read.payloads).await?;
        chain.stored = first + taken;
        // The index of one is not that of the blocks before it. Where these came from elsewhere, it may be good for others.
        if 0 < taken && taken < read.payloads.len() {
            let directory = self.places.directory.clone();
            let link = chain.link(first + taken);
            self.files.tell(move || directory.remove(&link));
            self.shared.change(|stats| stats.prefix.damaged += 1);
        }
        Ok((self.scheme.length(taken), goes_on && taken == read.payloads.len()))
    }
}
