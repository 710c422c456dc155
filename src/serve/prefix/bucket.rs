//! A bucket: storage that machines share, behind the directory that each has. What the directory lacks is got from there, and put into
//! the directory; what is written to the directory is sent there ([`Uploads`]).
//!
//! Objects have the names and the content of the directory's files, so what holds for these holds for them: names tell the content,
//! nothing is trusted without its checksums, and who sends what is there already sends the same. They are not made fewer: that is
//! for a rule of the bucket's own.
//!
//! A bucket that cannot be reached is as good as none for a minute: prompts are computed, and answers go on.

#[cfg_attr(not(feature = "object-store"), path = "bucket/no_objects.rs")]
mod objects;

use super::directory::{Directory, place};
use super::file::{self, Absent};
use super::key::{Key, Link};
use super::rest::{REST, Rest};
use super::worker::Worker;
use super::{Shared, lock};
use crate::Result;
use futures::StreamExt;
use futures::future::{Either, select};
use futures::stream::iter;
use objects::Objects;
use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

/// Objects that are sent at a time.
const SENT: usize = 8;

/// Blocks that wait to be sent: those of forty documents of 96,000 tokens. What finds no room is sent when a conversation begins with
/// it again.
const QUEUE: usize = 1 << 16;

/// How long objects are sent once nobody asks any more.
const LAST: Duration = Duration::from_secs(10);

/// How long it is believed that an object is there: rules of the bucket's own remove some.
const BELIEVED: Duration = Duration::from_secs(600);

/// A bucket, and when it last failed.
pub(super) struct Bucket {
    url: String,
    objects: Objects,
    directory: Arc<Directory>,
    /// After a question that failed, and after an object that could not be put there: who may not write may read.
    asking: Rest,
    sending: Rest,
    warn: fn(&str),
    shared: Arc<Shared>,
    /// Bytes that were put into the directory, and that who makes room there does not know of yet.
    came: AtomicU64,
    there: Mutex<There>,
}

/// What is known to be in the bucket, since when.
struct There {
    keys: HashSet<Key>,
    since: Instant,
}

/// Refuses what is no bucket's address.
pub(super) fn check(url: &str) -> Result<()> {
    Objects::check(url)
}

impl Bucket {
    /// # Errors
    /// [`crate::Error::Argument`] for what is no bucket's address; [`crate::Error::Io`] where a folder is not there, or the system has no
    /// threads.
    pub(super) fn open(
        url: &str,
        directory: Arc<Directory>,
        warn: fn(&str),
        shared: Arc<Shared>,
    ) -> Result<Self> {
        let objects = Objects::open(url)?;
        let (asking, sending) = (Rest::new(REST), Rest::new(REST));
        let there = Mutex::new(There { keys: HashSet::new(), since: Instant::now() });
        let (url, came) = (url.into(), AtomicU64::new(0));
        Ok(Self { url, objects, directory, asking, sending, warn, shared, came, there })
    }

    // What came of asking for something, if anything did.
    fn heard<T>(&self, rest: &Rest, answer: io::Result<T>) -> Option<T> {
        let error = match answer {
            Ok(answer) => {
                rest.end();
                return Some(answer);
            }
            Err(error) => error,
        };
        self.shared.change(|stats| stats.prefix.bucket_failed += 1);
        if rest.begin() {
            let url = &self.url;
            (self.warn)(&format!(
                "the prefix bucket {url} is not used for now: {error}; answers go on, and it is tried again in a minute"
            ));
        }
        None
    }

    fn is_there(&self, link: &Link) -> bool {
        let mut there = lock(&self.there);
        if there.since.elapsed() > BELIEVED {
            *there = There { keys: HashSet::new(), since: Instant::now() };
        }
        there.keys.contains(&link.key)
    }

    /// Whether a block is there, whatever its content.
    pub(super) fn contains(&self, link: &Link) -> bool {
        if self.asking.lasts() {
            return false;
        }
        let objects = &self.objects;
        let found = objects.wait(objects.contains(&place(link)));
        self.heard(&self.asking, found).unwrap_or(false)
    }

    /// Reads the payload of a block of these tokens, as [`file::read`]. The directory has it from then on, as one that was used at a time.
    pub(super) fn fetch(
        &self,
        link: &Link,
        tokens: &[u32],
        payload: &mut [u8],
        used: SystemTime,
    ) -> std::result::Result<(), Absent> {
        if self.asking.lasts() {
            return Err(Absent::Unreadable);
        }
        let objects = &self.objects;
        let size = file::HEAD_BYTES + size_of_val(tokens) + payload.len();
        let found = objects.wait(objects.get(&place(link), size));
        let object = self.heard(&self.asking, found).flatten().ok_or(Absent::Unreadable)?;
        file::read(&object[..], link, tokens, payload)?;
        lock(&self.there).keys.insert(link.key);
        self.shared.change(|stats| stats.prefix.fetched_bytes += size as u64);
        // Where it cannot be kept here it is there all the same.
        if self.directory.write(link, tokens, payload, used).is_ok() {
            self.came.fetch_add(size as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Whether bytes came into the directory that were not asked for yet.
    pub(super) fn has_come(&self) -> bool {
        self.came.load(Ordering::Relaxed) > 0
    }

    /// Bytes that came into the directory since this was asked.
    pub(super) fn came(&self) -> u64 {
        self.came.swap(0, Ordering::Relaxed)
    }

    /// Removes a block that is not what it should be, so that a sound one can take its place.
    pub(super) fn remove(&self, link: &Link) {
        lock(&self.there).keys.remove(&link.key);
        if !self.sending.lasts() {
            let objects = &self.objects;
            self.heard(&self.sending, objects.wait(objects.remove(&place(link))));
        }
    }

    // Sends a block of the directory, unless it is there.
    async fn send(&self, link: &Link) {
        if self.sending.lasts() || self.is_there(link) {
            return;
        }
        let place = place(link);
        // That it answers this does not say that it takes anything.
        let is_there = match self.objects.contains(&place).await {
            Ok(is_there) => Some(is_there),
            failed => self.heard(&self.sending, failed),
        };
        let Some(is_there) = is_there else { return };
        if !is_there {
            // What made room meanwhile, or is damaged, is not sent.
            let Some(file) = self.directory.whole(link) else { return };
            let bytes = file.len() as u64;
            if self.heard(&self.sending, self.objects.put(&place, file).await).is_none() {
                return;
            }
            self.shared.change(|stats| stats.prefix.sent_bytes += bytes);
        }
        lock(&self.there).keys.insert(link.key);
    }
}

/// The thread that sends blocks of the directory to the bucket.
pub(super) struct Uploads {
    worker: Worker,
    state: Arc<State>,
}

struct State {
    bucket: Arc<Bucket>,
    queue: Mutex<VecDeque<Link>>,
}

impl Uploads {
    pub(super) fn start(bucket: Arc<Bucket>) -> io::Result<Self> {
        let state = Arc::new(State { bucket, queue: Mutex::default() });
        let uploads = Self { worker: Worker::start("prefix uploads")?, state };
        let bucket = uploads.state.bucket.clone();
        // Who gave a wrong address or key is told at once, not by the first request.
        uploads.worker.tell(move || {
            if !bucket.asking.lasts() {
                let objects = &bucket.objects;
                bucket.heard(&bucket.asking, objects.wait(objects.contains("none")));
            }
        });
        Ok(uploads)
    }

    pub(super) fn bucket(&self) -> &Bucket {
        &self.state.bucket
    }

    /// Has blocks sent that are in the directory, where they are not in the bucket.
    pub(super) fn send(&self, links: Vec<Link>) {
        {
            let mut queue = lock(&self.state.queue);
            let room = QUEUE.saturating_sub(queue.len());
            let new = links.into_iter().filter(|link| !self.state.bucket.is_there(link));
            queue.extend(new.take(room));
        }
        let state = self.state.clone();
        self.worker.tell(move || state.send());
    }

    /// Waits until they are sent, for a while.
    pub(super) async fn finish(&self) {
        // Of a thread that panicked there is nothing to wait for.
        let sent = self.worker.ask(|| ());
        if let Either::Right(_) = select(sent, self.bucket().objects.sleep(LAST)).await {
            lock(&self.state.queue).clear();
        }
    }
}

impl State {
    // Sends what waits, and what comes meanwhile.
    fn send(&self) {
        let next = || lock(&self.queue).pop_front();
        let send = async |link: Link| self.bucket.send(&link).await;
        let all = iter(std::iter::from_fn(next)).map(send).buffer_unordered(SENT);
        self.bucket.objects.wait(all.for_each(async |()| ()));
    }
}

#[cfg(all(test, feature = "object-store"))]
mod tests;
