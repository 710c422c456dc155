//! Blocks that are read for requests: a piece after the other, in the order of asking, and of all together no more than there is room for.

use super::key::Link;
use super::lock;
use super::places::Places;
use super::worker::Worker;
use futures::channel::oneshot::Receiver;
use rayon::prelude::*;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::SystemTime;

/// Threads that read at most.
const READERS: usize = 16;

/// Cores that are left to others: five threads write what came to where the GPU has it, and the engine's goes on.
const OTHERS: usize = 6;

/// Threads that read if there are cores, whoever else is busy.
const LEAST_READERS: usize = 4;

/// A block that is to be read, and its tokens.
pub(super) type Wanted = (Link, Vec<u32>);

/// What was read of consecutive blocks: fewer than were asked for where the beginning ends there.
pub(super) struct Read {
    pub(super) payloads: Vec<Vec<u8>>,
    pub(super) asked: usize,
    /// Until they are where they go to.
    lent: Lent,
}

impl Drop for Read {
    fn drop(&mut self) {
        self.lent.room.keep(std::mem::take(&mut self.payloads));
    }
}

/// What reads.
pub(super) struct Reader {
    worker: Worker,
    threads: Arc<rayon::ThreadPool>,
    room: Arc<Room>,
    places: Places,
}

impl Reader {
    /// Of pieces that have so many bytes together at most, or of one alone.
    pub(super) fn start(places: Places, most: usize) -> io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let count = readers(cores, places.bucket.is_some());
        let threads = rayon::ThreadPoolBuilder::new().num_threads(count);
        let threads = threads.thread_name(|i| format!("prefix {i}")).build();
        let threads = Arc::new(threads.map_err(io::Error::other)?);
        let room = Arc::new(Room { most, held: Mutex::default(), freed: Condvar::new() });
        Ok(Self { worker: Worker::start("prefix reads")?, threads, room, places })
    }

    /// Has a piece read, of blocks whose payload has so many bytes, for a conversation that was begun with at a time.
    pub(super) fn ask(
        &self,
        wanted: Vec<Wanted>,
        payload: usize,
        used: SystemTime,
    ) -> Receiver<Read> {
        let (places, threads) = (self.places.clone(), self.threads.clone());
        let room = self.room.clone();
        self.worker.ask(move || {
            let lent = room.lend(wanted.len() * payload);
            let payloads = threads.install(|| read(&places, &wanted, payload, used, &room));
            Read { payloads, asked: wanted.len(), lent }
        })
    }
}

// How many threads read on so many cores. What comes over a network is waited for, and needs none of them.
fn readers(cores: usize, is_network: bool) -> usize {
    let free = if is_network { cores } else { cores.saturating_sub(OTHERS) };
    free.max(cores.min(LEAST_READERS)).min(READERS)
}

/// Bytes of CPU memory for what was read.
struct Room {
    most: usize,
    held: Mutex<Held>,
    freed: Condvar,
}

#[derive(Default)]
struct Held {
    bytes: usize,
    /// Memory of payloads that are where they go to, for the next ones as long as pieces follow each other: fresh pages cost an
    /// operating system time, the more the more threads ask.
    spare: Vec<Vec<u8>>,
}

impl Room {
    // Waits until there is room. What is more than all has it once nothing else is there.
    fn lend(self: &Arc<Self>, bytes: usize) -> Lent {
        let is_full = |held: &mut Held| held.bytes > 0 && held.bytes + bytes > self.most;
        let waited = self.freed.wait_while(lock(&self.held), is_full);
        waited.unwrap_or_else(PoisonError::into_inner).bytes += bytes;
        Lent { room: self.clone(), bytes }
    }

    // Memory for a payload, with whatever is in there.
    fn payload(&self, bytes: usize) -> Vec<u8> {
        let spare = lock(&self.held).spare.pop();
        spare.filter(|payload| payload.len() == bytes).unwrap_or_else(|| vec![0; bytes])
    }

    fn keep(&self, payloads: Vec<Vec<u8>>) {
        lock(&self.held).spare.extend(payloads);
    }
}

/// Bytes of a room until they are dropped.
struct Lent {
    room: Arc<Room>,
    bytes: usize,
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut held = lock(&self.room.held);
        held.bytes -= self.bytes;
        let spare = if held.bytes == 0 { std::mem::take(&mut held.spare) } else { Vec::new() };
        drop(held);
        drop(spare);
        self.room.freed.notify_all();
    }
}

fn read(
    places: &Places,
    wanted: &[Wanted],
    bytes: usize,
    used: SystemTime,
    room: &Room,
) -> Vec<Vec<u8>> {
    let all = wanted.par_iter().map(|(link, tokens)| {
        let mut payload = room.payload(bytes);
        places.read(link, tokens, &mut payload, used).then_some(payload)
    });
    let all: Vec<Option<Vec<u8>>> = all.collect();
    let payloads: Vec<Vec<u8>> = all.into_iter().map_while(|payload| payload).collect();
    let bytes: usize = payloads.iter().map(Vec::len).sum();
    places.shared.change(|stats| stats.prefix.read_bytes += bytes as u64);
    payloads
}

#[cfg(test)]
mod tests {
    use super::super::directory::Directory;
    use super::super::key::{Chain, Scheme};
    use super::*;
    use pollster::block_on;
    use std::time::Duration;

    const PAYLOAD: usize = 1000;

    // A reader with room for so many blocks, of a directory that has six, and pieces of two of these.
    fn reader(folder: &tempfile::TempDir, room: usize) -> (Reader, Vec<Vec<Wanted>>) {
        let directory = Arc::new(Directory::open(folder.path(), 1 << 20).unwrap());
        let scheme = Scheme::new(&[], 4, 0);
        let tokens: Vec<u32> = (0..24).collect();
        let mut chain = Chain::default();
        chain.extend(&scheme, &tokens);
        let wanted = (0..6).map(|block| {
            let (link, tokens) = (chain.link(block), scheme.tokens(&tokens, block).to_vec());
            let payload = [block as u8; PAYLOAD];
            directory.write(&link, &tokens, &payload, chain.used).unwrap();
            (link, tokens)
        });
        let wanted: Vec<Wanted> = wanted.collect();
        let pieces = wanted.chunks(2).map(<[Wanted]>::to_vec).collect();
        let places = Places { directory, bucket: None, shared: Arc::default() };
        let reader = Reader::start(places, room * PAYLOAD).unwrap();
        (reader, pieces)
    }

    fn is_there(reading: &mut Receiver<Read>) -> bool {
        std::thread::sleep(Duration::from_millis(100));
        reading.try_recv().unwrap().is_some()
    }

    #[test]
    fn pieces_wait_in_order_until_there_is_room() {
        let folder = tempfile::tempdir().unwrap();
        let (reader, pieces) = reader(&folder, 3);
        let mut asked: Vec<_> =
            pieces.into_iter().map(|piece| reader.ask(piece, PAYLOAD, SystemTime::now())).collect();
        let [first, second, third] = &mut asked[..] else { unreachable!() };
        let read = block_on(first).unwrap();
        assert_eq!((read.payloads[1][0], read.asked), (1, 2));
        assert!(!is_there(second) && !is_there(third));
        drop(read);
        let read = block_on(second).unwrap();
        assert!(read.payloads[0][0] == 2 && !is_there(third));
        drop(read);
        assert_eq!(block_on(third).unwrap().payloads.len(), 2);
    }

    #[test]
    fn cores_are_left_to_those_who_write_what_came() {
        let of =
            |is_network| [1, 2, 3, 4, 8, 10, 16, 22, 64].map(|cores| readers(cores, is_network));
        assert_eq!(of(false), [1, 2, 3, 4, 4, 4, 10, 16, 16]);
        assert_eq!(of(true), [1, 2, 3, 4, 8, 10, 16, 16, 16]);
    }

    #[test]
    fn memory_is_kept_while_pieces_follow_each_other_and_no_longer() {
        let folder = tempfile::tempdir().unwrap();
        let (reader, pieces) = reader(&folder, 4);
        let ask = |at: usize| reader.ask(pieces[at].clone(), PAYLOAD, SystemTime::now());
        let spare = || lock(&reader.room.held).spare.len();
        let (first, second) = (block_on(ask(0)).unwrap(), block_on(ask(1)).unwrap());
        let own: Vec<_> = first.payloads.iter().map(|payload| payload.as_ptr()).collect();
        drop(first);
        assert_eq!(spare(), 2);
        let third = block_on(ask(2)).unwrap();
        // What was there before does not show.
        assert_eq!(third.payloads, [[4; PAYLOAD], [5; PAYLOAD]]);
        assert!(third.payloads.iter().all(|payload| own.contains(&payload.as_ptr())));
        assert_eq!(spare(), 0);
        drop(second);
        assert_eq!(spare(), 2);
        drop(third);
        assert_eq!(spare(), 0);
    }

    #[test]
    fn who_goes_away_makes_room_and_one_piece_has_it_in_any_case() {
        let folder = tempfile::tempdir().unwrap();
        let (reader, pieces) = reader(&folder, 1);
        let mut asked =
            pieces.into_iter().map(|piece| reader.ask(piece, PAYLOAD, SystemTime::now()));
        let (first, mut second, third) =
            (asked.next().unwrap(), asked.next().unwrap(), asked.next().unwrap());
        assert!(!is_there(&mut second));
        // What it was given is dropped with it, and what nobody waits for is not read.
        drop((first, second));
        assert_eq!(block_on(third).unwrap().payloads[0][0], 4);
    }
}
