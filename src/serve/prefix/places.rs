//! Where blocks are found: in the directory, and else in the bucket, if there is one.

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
}

impl Places {
    /// How many of a chain's first blocks there are.
    pub(super) fn find(&self, links: &[Link]) -> usize {
        let is_there = |link: &Link| {
            let bucket = self.bucket.as_ref();
            self.directory.contains(link) || bucket.is_some_and(|bucket| bucket.contains(link))
        };
        // Most prompts are new, which one question to a bucket tells.
        if !links.first().is_some_and(is_there) {
            return 0;
        }
        // Blocks go from the end, so those that are there are the first. Where that is not so, reading ends before.
        links.partition_point(is_there)
    }

    /// The payload of a block of these tokens, of so many bytes. What comes into the directory by that was used at a time.
    pub(super) fn read(
        &self,
        link: &Link,
        tokens: &[u32],
        bytes: usize,
        used: SystemTime,
    ) -> Result<Vec<u8>, Absent> {
        match (self.directory.read(link, tokens, bytes), &self.bucket) {
            (Err(Absent::Unreadable), Some(bucket)) => bucket.fetch(link, tokens, bytes, used),
            (read, _) => read,
        }
    }

    /// Removes a block that is not what it should be; where that is not allowed it stays, and is passed over again.
    pub(super) fn remove(&self, link: &Link) {
        self.directory.remove(link);
        if let Some(bucket) = &self.bucket {
            bucket.remove(link);
        }
    }
}
