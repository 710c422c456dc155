//! Blocks on their way to the directory: read back by the driver, a piece between two steps, and written by a thread.

use super::bucket::Uploads;
use super::directory::{Directory, Held};
use super::key::{Chain, Key, Link};
use super::rest::Rest;
use super::{Prefix, Shared};
use crate::Result;
use crate::engine::{Engine, Session};
use futures::StreamExt;
use futures::channel::mpsc::{self, UnboundedReceiver};
use futures::channel::oneshot::Receiver;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

/// Bytes that are read back between two steps, or one block.
const PIECE_BYTES: usize = 16 << 20;

/// Pieces that wait to be written.
const QUEUE: usize = 8;

/// Blocks that are looked for at a time.
const LOOKED: usize = 64;

/// What came of trying to store something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::serve) enum Stored {
    /// There may be more.
    Some,
    Nothing,
    /// As much as may be waits to be written, or it is not known yet what is there.
    Later,
}

/// The first block of a conversation that could not be written. Nothing is written behind it, since it would not be found.
#[derive(Debug)]
pub(super) struct Hole(AtomicU32);

impl Default for Hole {
    fn default() -> Self {
        Self(AtomicU32::new(u32::MAX))
    }
}

impl Hole {
    fn note(&self, block: u32) {
        self.0.fetch_min(block, Ordering::Relaxed);
    }

    fn is_before(&self, block: u32) -> bool {
        self.0.load(Ordering::Relaxed) < block
    }

    // Where to begin again.
    fn take(&self) -> Option<usize> {
        let block = self.0.swap(u32::MAX, Ordering::Relaxed);
        (block < u32::MAX).then_some(block as usize)
    }
}

/// How many blocks of a conversation the directory has from one on.
pub(super) struct Look {
    from: Key,
    answer: Receiver<usize>,
    there: Option<usize>,
}

/// What the thread is to do.
enum Order {
    Write(Vec<Block>),
    /// Conversations with these blocks were begun with then.
    Touch(Vec<Link>, SystemTime),
    /// Blocks came from the bucket, for which others may have to go.
    MakeRoom,
}

struct Block {
    link: Link,
    tokens: Vec<u32>,
    payload: Vec<u8>,
    used: SystemTime,
    hole: Arc<Hole>,
}

/// The thread that writes.
pub(in crate::serve) struct Writer {
    orders: std::sync::mpsc::Sender<Order>,
    done: UnboundedReceiver<()>,
    /// Orders that are not done.
    pending: usize,
    rest: Arc<Rest>,
    uploads: Option<Arc<Uploads>>,
}

impl Writer {
    pub(super) fn start(
        directory: Arc<Directory>,
        uploads: Option<Arc<Uploads>>,
        warn: fn(&str),
        shared: Arc<Shared>,
        rest: Duration,
    ) -> io::Result<Self> {
        let (orders, queue) = std::sync::mpsc::channel();
        let (sender, done) = mpsc::unbounded();
        let rest = Arc::new(Rest::new(rest));
        let (held, rests) = (Held::default(), rest.clone());
        let to = uploads.clone();
        let mut writing = Writing { directory, uploads: to, warn, shared, held, rest: rests };
        thread::Builder::new().name("prefix cache".into()).spawn(move || {
            // Of an earlier run there may be more than this one allows.
            writing.make_room(0);
            for order in queue {
                writing.carry_out(order);
                // Who ordered may be gone; what was ordered is done.
                let _ = sender.unbounded_send(());
            }
        })?;
        Ok(Self { orders, done, pending: 0, rest, uploads })
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

    // Waits until something more is written.
    async fn wait(&mut self) {
        match self.done.next().await {
            Some(()) => self.pending -= 1,
            None => self.pending = 0,
        }
    }

    /// Waits until all is written.
    async fn finish(self) {
        let Self { orders, mut done, uploads, .. } = self;
        drop(orders);
        while done.next().await.is_some() {}
        if let Some(uploads) = uploads {
            uploads.finish().await;
        }
    }
}

/// The thread's own.
struct Writing {
    directory: Arc<Directory>,
    uploads: Option<Arc<Uploads>>,
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
                self.send(links);
            }
            Order::Write(blocks) => {
                blocks.iter().for_each(|block| self.store(block));
                self.send(blocks.iter().map(|block| block.link).collect());
            }
            Order::MakeRoom => drop(self.make_room(0)),
        }
    }

    // Has the bucket what the directory has.
    fn send(&self, links: Vec<Link>) {
        if let Some(uploads) = &self.uploads {
            uploads.send(links);
        }
    }

    fn store(&mut self, block: &Block) {
        let Block { link, used, hole, .. } = block;
        if self.directory.contains(link) {
            return self.directory.touch(link, *used);
        }
        if self.rest.lasts() || hole.is_before(link.block) {
            self.shared.change(|stats| stats.prefix.failed += 1);
        } else if self.write(block) {
            return;
        }
        hole.note(link.block);
    }

    fn write(&mut self, Block { link, tokens, payload, used, .. }: &Block) -> bool {
        let bytes = (super::file::HEAD_BYTES + size_of_val(&tokens[..]) + payload.len()) as u64;
        if !self.make_room(bytes) {
            return false;
        }
        let mut written = self.directory.write(link, tokens, payload, *used);
        if written.as_ref().is_err_and(|error| is_full(error.kind()))
            && let Ok(evicted @ 1..) = self.directory.shrink(&mut self.held)
        {
            self.shared.change(|stats| stats.prefix.evicted += evicted);
            written = self.directory.write(link, tokens, payload, *used);
        }
        match &written {
            Ok(()) => {
                self.rest.end();
                self.shared.change(|stats| stats.prefix.written_bytes += bytes);
            }
            Err(error) => self.failed(&error.to_string()),
        }
        written.is_ok()
    }

    fn make_room(&mut self, bytes: u64) -> bool {
        self.held.add(self.uploads.as_ref().map_or(0, |uploads| uploads.bucket().came()));
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
        if self.rest.begin() {
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

    /// Makes room in the directory where blocks came into it from the bucket.
    pub(super) fn make_room(&mut self) {
        if self.places.bucket.as_ref().is_some_and(|bucket| bucket.has_come()) {
            self.writer.order(Order::MakeRoom);
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
        if self.writer.rest.lasts() {
            return Ok(Stored::Nothing);
        }
        if let Some(hole) = chain.hole.take() {
            chain.stored = chain.stored.min(hole);
        }
        let most = engine.sealed_blocks(session).min(tokens / engine.options.block) as usize;
        if chain.stored >= most {
            return Ok(Stored::Nothing);
        }
        if !self.writer.has_room() {
            return Ok(Stored::Later);
        }
        chain.extend(&self.scheme, session.tokens());
        let most = most.min(chain.blocks());
        let from = chain.stored;
        if from >= most {
            return Ok(Stored::Nothing);
        }
        let Some(there) = self.looked(chain, from..most) else { return Ok(Stored::Later) };
        if there > 0 {
            chain.stored += there;
            self.touch(chain, from..from + there);
            self.look(chain, from + there..most);
            return Ok(Stored::Some);
        }
        let piece = (PIECE_BYTES / self.payload).max(1);
        let blocks = from..most.min(from + piece);
        // Behind it even if it cannot be read: what failed once is not tried in every step.
        chain.stored = blocks.end;
        self.look(chain, blocks.end..most);
        let payloads = engine.read_sealed(session, blocks.clone()).await?;
        let block = |(block, payload)| Block {
            link: chain.link(block),
            tokens: self.scheme.tokens(session.tokens(), block).to_vec(),
            payload,
            used: chain.used,
            hole: chain.hole.clone(),
        };
        let blocks = blocks.zip(payloads).map(block).collect();
        self.writer.order(Order::Write(blocks));
        Ok(Stored::Some)
    }

    // Has it looked how many of these blocks are there before the first that is not.
    fn look(&mut self, chain: &Chain, blocks: Range<usize>) {
        let links: Vec<Link> = blocks.take(LOOKED).map(|block| chain.link(block)).collect();
        let Some(from) = links.first().map(|link| link.key) else { return };
        let directory = self.places.directory.clone();
        let count = move || links.iter().take_while(|link| directory.contains(link)).count();
        self.look = Some(Look { from, answer: self.files.ask(count), there: None });
    }

    // The same, once it is known: it is asked for if it was not.
    fn looked(&mut self, chain: &Chain, blocks: Range<usize>) -> Option<usize> {
        match &mut self.look {
            Some(look) if look.from == chain.link(blocks.start).key => {
                // Of a thread that panicked nothing is known: the one that writes looks too.
                let there = look.there.or_else(|| look.answer.try_recv().unwrap_or(Some(0)))?;
                self.look = None;
                Some(there)
            }
            _ => {
                self.look(chain, blocks);
                None
            }
        }
    }

    /// Waits until it is known what is there, or else something more is written.
    pub(in crate::serve) async fn wait(&mut self) {
        match &mut self.look {
            Some(look) if look.there.is_none() => {
                look.there = Some((&mut look.answer).await.unwrap_or(0));
            }
            _ => self.writer.wait().await,
        }
    }

    /// Waits until all that was read back is written.
    pub(in crate::serve) async fn finish(self) {
        self.writer.finish().await;
    }
}

#[cfg(test)]
mod tests;
