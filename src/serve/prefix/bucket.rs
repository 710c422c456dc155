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

use super::Shared;
use super::directory::{Directory, place};
use super::file::{self, Absent};
use super::key::{Key, Link};
use super::rest::{REST, Rest};
use super::worker::Worker;
use crate::Result;
use futures::StreamExt;
use futures::stream::iter;
use objects::Objects;
use std::collections::HashSet;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Objects that are sent at a time.
const SENT: usize = 8;

/// How long objects are sent once nobody asks any more.
const LAST: Duration = Duration::from_secs(30);

/// So many keys of what is in the bucket are remembered.
const REMEMBERED: usize = 1 << 18;

/// A bucket, and when it last failed.
pub(super) struct Bucket {
    url: String,
    objects: Objects,
    directory: Arc<Directory>,
    rest: Rest,
    warn: fn(&str),
    shared: Arc<Shared>,
    /// Bytes that were put into the directory, and that who makes room there does not know of yet.
    came: AtomicU64,
}

/// Refuses what is no bucket's address.
pub(super) fn check(url: &str) -> Result<()> {
    Objects::check(url)
}

impl Bucket {
    /// # Errors
    /// [`crate::Error::Argument`] for what is no bucket's address; [`crate::Error::Io`] where the system has no threads.
    pub(super) fn open(
        url: &str,
        directory: Arc<Directory>,
        warn: fn(&str),
        shared: Arc<Shared>,
    ) -> Result<Self> {
        let objects = Objects::open(url)?;
        let (url, rest, came) = (url.into(), Rest::new(REST), AtomicU64::new(0));
        Ok(Self { url, objects, directory, rest, warn, shared, came })
    }

    // What came of asking for something, if anything did.
    fn heard<T>(&self, answer: io::Result<T>) -> Option<T> {
        match answer {
            Ok(answer) => {
                self.rest.end();
                Some(answer)
            }
            Err(error) => {
                self.shared.change(|stats| stats.prefix.bucket_failed += 1);
                if self.rest.begin() {
                    let url = &self.url;
                    (self.warn)(&format!(
                        "the prefix bucket {url} is not used for now: {error}; answers go on, and it is tried again in a minute"
                    ));
                }
                None
            }
        }
    }

    /// Whether a block is there, whatever its content.
    pub(super) fn contains(&self, link: &Link) -> bool {
        if self.rest.lasts() {
            return false;
        }
        let objects = &self.objects;
        self.heard(objects.wait(objects.contains(&place(link)))).unwrap_or(false)
    }

    /// The payload of a block of these tokens, of so many bytes, which the directory has from then on, as one that was used at a time.
    pub(super) fn fetch(
        &self,
        link: &Link,
        tokens: &[u32],
        bytes: usize,
        used: SystemTime,
    ) -> std::result::Result<Vec<u8>, Absent> {
        if self.rest.lasts() {
            return Err(Absent::Unreadable);
        }
        let objects = &self.objects;
        let object = self.heard(objects.wait(objects.get(&place(link)))).flatten();
        let object = object.ok_or(Absent::Unreadable)?;
        let payload = file::read(&object[..], link, tokens, bytes)?;
        self.shared.change(|stats| stats.prefix.fetched_bytes += object.len() as u64);
        // Where it cannot be kept here it is there all the same.
        if self.directory.write(link, tokens, &payload, used).is_ok() {
            self.came.fetch_add(object.len() as u64, Ordering::Relaxed);
        }
        Ok(payload)
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
        if !self.rest.lasts() {
            let objects = &self.objects;
            self.heard(objects.wait(objects.remove(&place(link))));
        }
    }

    // Sends a block of the directory, unless it is there. Whether it is there then.
    async fn send(&self, link: &Link) -> bool {
        if self.rest.lasts() {
            return false;
        }
        let place = place(link);
        match self.heard(self.objects.contains(&place).await) {
            Some(false) => {}
            Some(true) => return true,
            None => return false,
        }
        // What made room meanwhile, or is damaged, is not sent.
        let Some(file) = self.directory.whole(link) else { return false };
        let bytes = file.len() as u64;
        let is_sent = self.heard(self.objects.put(&place, file).await).is_some();
        if is_sent {
            self.shared.change(|stats| stats.prefix.sent_bytes += bytes);
        }
        is_sent
    }
}

/// The thread that sends blocks of the directory to the bucket.
pub(super) struct Uploads {
    worker: Worker,
    state: Arc<State>,
}

struct State {
    bucket: Arc<Bucket>,
    /// What is known to be in the bucket.
    sent: Mutex<HashSet<Key>>,
    /// When this ends, once nobody asks any more.
    until: Mutex<Option<Instant>>,
}

impl Uploads {
    pub(super) fn start(bucket: Arc<Bucket>) -> io::Result<Self> {
        let state = State { bucket, sent: Mutex::default(), until: Mutex::default() };
        let uploads = Self { worker: Worker::start("prefix uploads")?, state: Arc::new(state) };
        let bucket = uploads.state.bucket.clone();
        // Who gave a wrong address or key is told at once, not by the first request.
        uploads.worker.tell(move || {
            if !bucket.rest.lasts() {
                let objects = &bucket.objects;
                bucket.heard(objects.wait(objects.contains("none")));
            }
        });
        Ok(uploads)
    }

    pub(super) fn bucket(&self) -> &Bucket {
        &self.state.bucket
    }

    /// Has blocks sent that are in the directory, where they are not in the bucket.
    pub(super) fn send(&self, links: Vec<Link>) {
        let state = self.state.clone();
        self.worker.tell(move || state.send(&links));
    }

    /// Waits until they are sent, for a while.
    pub(super) async fn finish(&self) {
        let until = Instant::now() + LAST;
        *self.state.until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
        // Of a thread that panicked there is nothing to wait for.
        let _ = self.worker.ask(|| ()).await;
    }
}

impl State {
    fn is_over(&self) -> bool {
        let until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() > until)
    }

    fn send(&self, links: &[Link]) {
        let sent = || self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let links: Vec<_> = links.iter().filter(|link| !sent().contains(&link.key)).collect();
        let send = async |link: &Link| {
            if !self.is_over() && self.bucket.send(link).await {
                let mut sent = sent();
                if sent.len() >= REMEMBERED {
                    sent.clear();
                }
                sent.insert(link.key);
            }
        };
        let all = iter(links).map(send).buffer_unordered(SENT).collect::<Vec<()>>();
        self.bucket.objects.wait(async { drop(all.await) });
    }
}

#[cfg(all(test, feature = "object-store"))]
mod tests;
