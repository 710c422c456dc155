//! Blocks on their way to the directory: read back by the driver, a piece between two steps, and written by a thread.

use super::directory::{Directory, Held};
use super::key::{Chain, Link};
use super::{Prefix, Shared};
use crate::Result;
use crate::engine::{Engine, Session};
use futures::StreamExt;
use futures::channel::mpsc::{self, UnboundedReceiver};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// Bytes that are read back between two steps, or one block.
const PIECE_BYTES: usize = 16 << 20;

/// Pieces that wait to be written.
const QUEUE: usize = 8;

/// Blocks that are looked for between two steps.
const LOOKED: usize = 64;

/// How long nothing is written after a write has failed.
const REST: Duration = Duration::from_secs(60);

/// What came of trying to store something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::serve) enum Stored {
    /// There may be more.
    Some,
    Nothing,
    /// As much as may be waits to be written.
    Full,
}

/// What the thread is to do.
enum Order {
    Write(Vec<Block>),
    /// Conversations with these blocks were begun with then.
    Touch(Vec<Link>, SystemTime),
}

struct Block {
    link: Link,
    tokens: Vec<u32>,
    payload: Vec<u8>,
    used: SystemTime,
}

/// The thread that writes.
pub(in crate::serve) struct Writer {
    orders: std::sync::mpsc::Sender<Order>,
    done: UnboundedReceiver<()>,
    /// Orders that are not done.
    pending: usize,
    rest: Arc<Rest>,
}

/// Until when nothing is written, once a write has failed; it is said once until one succeeds.
#[derive(Default)]
struct Rest(Mutex<Option<Instant>>);

impl Rest {
    // Every update leaves it whole, so that of a thread that panicked is too.
    fn until(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lasts(&self) -> bool {
        self.until().is_some_and(|until| Instant::now() < until)
    }
}

impl Writer {
    pub(super) fn start(
        directory: Arc<Directory>,
        warn: fn(&str),
        shared: Arc<Shared>,
    ) -> io::Result<Self> {
        let (orders, queue) = std::sync::mpsc::channel();
        let (sender, done) = mpsc::unbounded();
        let rest = Arc::new(Rest::default());
        let (held, rests) = (Held::default(), rest.clone());
        let mut writing = Writing { directory, warn, shared, held, rest: rests };
        thread::Builder::new().name("prefix cache".into()).spawn(move || {
            // Of an earlier run there may be more than this one allows.
            writing.make_room(0);
            for order in queue {
                writing.carry_out(order);
                // Who ordered may be gone; what was ordered is done.
                let _ = sender.unbounded_send(());
            }
        })?;
        Ok(Self { orders, done, pending: 0, rest })
    }

    fn order(&mut self, order: Order) {
        // A thread that panicked writes no more, and nothing waits for it.
        self.pending += usize::from(self.orders.send(order).is_ok());
    }

    fn has_room(&mut self) -> bool {
        while self.pending > 0 && self.done.try_recv().is_ok() {
            self.pending -= 1;
        }
        self.pending < QUEUE
    }

    /// Waits until something more is written.
    pub(in crate::serve) async fn wait(&mut self) {
        match self.done.next().await {
            Some(()) => self.pending -= 1,
            None => self.pending = 0,
        }
    }

    /// Waits until all is written.
    async fn finish(self) {
        let Self { orders, mut done, .. } = self;
        drop(orders);
        while done.next().await.is_some() {}
    }
}

/// The thread's own.
struct Writing {
    directory: Arc<Directory>,
    warn: fn(&str),
    shared: Arc<Shared>,
    held: Held,
    rest: Arc<Rest>,
}

impl Writing {
    fn carry_out(&mut self, order: Order) {
        match order {
            Order::Touch(links, used) => {
                links.iter().for_each(|link| self.directory.touch(link, used));
            }
            Order::Write(blocks) => blocks.iter().for_each(|block| self.store(block)),
        }
    }

    fn store(&mut self, Block { link, tokens, payload, used }: &Block) {
        if self.directory.contains(link) {
            return self.directory.touch(link, *used);
        }
        if self.rest.lasts() {
            return self.shared.change(|stats| stats.prefix.failed += 1);
        }
        let bytes = (super::file::HEAD_BYTES + size_of_val(&tokens[..]) + payload.len()) as u64;
        if !self.make_room(bytes) {
            return;
        }
        let mut written = self.directory.write(link, tokens, payload, *used);
        if written.as_ref().is_err_and(|error| is_full(error.kind()))
            && let Ok(evicted @ 1..) = self.directory.shrink(&mut self.held)
        {
            self.shared.change(|stats| stats.prefix.evicted += evicted);
            written = self.directory.write(link, tokens, payload, *used);
        }
        match written {
            Ok(()) => {
                *self.rest.until() = None;
                self.shared.change(|stats| stats.prefix.written_bytes += bytes);
            }
            Err(error) => self.failed(&error.to_string()),
        }
    }

    fn make_room(&mut self, bytes: u64) -> bool {
        match self.directory.make_room(bytes, &mut self.held) {
            Ok(Some(evicted)) => {
                self.shared.change(|stats| stats.prefix.evicted += evicted);
                return true;
            }
            Ok(None) => self.failed(&format!("a block of {bytes} bytes is more than all may have")),
            Err(error) => self.failed(&error.to_string()),
        }
        false
    }

    fn failed(&mut self, reason: &str) {
        let before = self.rest.until().replace(Instant::now() + REST);
        if before.is_none() {
            let path = self.directory.path().display();
            (self.warn)(&format!(
                "the prefix cache {path} stores nothing for now: {reason}; answers go on, and it is tried again in a minute"
            ));
        }
        self.shared.change(|stats| stats.prefix.failed += 1);
    }
}

// Whether a disk, or what a user may have of it, is full.
fn is_full(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

impl Prefix {
    /// The chain of a request that begins now.
    pub(in crate::serve) fn chain(&self, prompt: &[u32]) -> Chain {
        let mut chain = Chain::default();
        chain.extend(&self.scheme, prompt);
        chain
    }

    /// Notes that a conversation begins with its first blocks.
    pub(super) fn touch(&mut self, chain: &Chain, blocks: Range<usize>) {
        let links: Vec<Link> = blocks.map(|block| chain.link(block)).collect();
        if !links.is_empty() {
            self.writer.order(Order::Touch(links, chain.used));
        }
    }

    /// Reads a piece back of a session, of whose first `tokens` tokens others may begin with the blocks, and has it written.
    ///
    /// # Errors
    /// Errors of the device.
    pub(in crate::serve) async fn store(
        &mut self,
        engine: &Engine,
        session: &Session,
        chain: &mut Chain,
        tokens: u32,
    ) -> Result<Stored> {
        let most = engine.sealed_blocks(session).min(tokens / engine.options.block) as usize;
        if chain.stored >= most || self.writer.rest.lasts() {
            return Ok(Stored::Nothing);
        }
        if !self.writer.has_room() {
            return Ok(Stored::Full);
        }
        chain.extend(&self.scheme, session.tokens());
        let most = most.min(chain.blocks());
        let from = chain.stored;
        let is_there = |block: &usize| self.directory.contains(&chain.link(*block));
        let there = (from..most.min(from + LOOKED)).take_while(is_there).count();
        if there > 0 || from == most {
            chain.stored += there;
            self.touch(chain, from..from + there);
            return Ok(if there > 0 { Stored::Some } else { Stored::Nothing });
        }
        let piece = (PIECE_BYTES / self.payload).max(1);
        let blocks = from..most.min(from + piece);
        // Behind it even if it cannot be read: what failed once is not tried in every step.
        chain.stored = blocks.end;
        let payloads = engine.read_sealed(session, blocks.clone()).await?;
        let block = |(block, payload)| Block {
            link: chain.link(block),
            tokens: self.scheme.tokens(session.tokens(), block).to_vec(),
            payload,
            used: chain.used,
        };
        let blocks = blocks.zip(payloads).map(block).collect();
        self.writer.order(Order::Write(blocks));
        Ok(Stored::Some)
    }

    /// Waits until all that was read back is written.
    pub(in crate::serve) async fn finish(self) {
        self.writer.finish().await;
    }
}

#[cfg(test)]
mod tests;
