//! Where blocks are found: in the directory, and else in the bucket, if there is one.

use super::Shared;
use super::bucket::Bucket;
use super::directory::Directory;
use super::file::Absent;
use super::key::Link;
use std::sync::Arc;
use std::time::SystemTime;

#[derive(Clone)]
pub(super) struct Places {
    pub(super) directory: Arc<Directory>,
    pub(super) bucket: Option<Arc<Bucket>>,
    pub(super) shared: Arc<Shared>,
}

impl Places {
    /// How many of a chain's first blocks there are.
    pub(super) fn find(&self, links: &[Link]) -> usize {
        // Blocks go from the end, so those that are there are the first. Where that is not so, reading ends before.
        let here = links.partition_point(|link| self.directory.contains(link));
        let (Some(bucket), [next, more @ ..]) = (&self.bucket, &links[here..]) else { return here };
        // Most prompts are new from there on, which one question tells.
        if !bucket.contains(next) {
            return here;
        }
        here + 1 + more.partition_point(|link| bucket.contains(link))
    }

    /// Reads the payload of a block of these tokens, as [`super::file::read`]; false where there is none. What comes into the directory
    /// by that was used at a time. What is not what it should be is removed where it was; where that is not allowed it stays, and is
    /// passed over again.
    pub(super) fn read(
        &self,
        link: &Link,
        tokens: &[u32],
        payload: &mut [u8],
        used: SystemTime,
    ) -> bool {
        let read = self.directory.read(link, tokens, payload);
        if self.is_sound(read, || self.directory.remove(link)) {
            return true;
        }
        let Some(bucket) = &self.bucket else { return false };
        self.is_sound(bucket.fetch(link, tokens, payload, used), || bucket.remove(link))
    }

    fn is_sound(&self, read: Result<(), Absent>, remove: impl FnOnce()) -> bool {
        if let Err(Absent::Damaged) = read {
            remove();
            self.shared.change(|stats| stats.prefix.damaged += 1);
        }
        read.is_ok()
    }
}
