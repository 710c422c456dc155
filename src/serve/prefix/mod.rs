//! The prefix cache: sealed blocks of conversations in a directory, which survive a restart and are shared by all processes that are
//! given it. A request begins with what it has of its prompt instead of computing it.
//!
//! **Keys.** A block is known by the hash of the key before it and of its own tokens; the first key follows from the model and every
//! setting that changes what a block holds ([`key::Scheme`]). So equal keys are equal beginnings, read by the same model, and nothing
//! but content is shared. Where sessions choose their own index channels, by their first 1,024 tokens, the index of every block
//! follows from all of these: they are part of the first key, and shorter beginnings have none.
//!
//! **Files.** Each block is a file of its own ([`file`]): keys, values and index of all layers, the channels that the index was built
//! by where sessions choose them, the tokens, and checksums. A hash is not trusted alone: keys, tokens and checksums are compared
//! when a block is read. What does not fit is removed, counted, and computed again by prefill, with all behind it.
//!
//! **The directory** ([`directory::Directory`]) has no index, no lock, and nothing that a crash could leave behind but a temporary file,
//! which whoever comes an hour later removes. A block is written beside and gets its name when it is whole; two processes that write
//! the same one write the same content. Nothing waits for the disk: what a power cut tears is found by its checksum. A file's time is when
//! its conversation was last begun with, the same for all blocks of it, and the oldest go first, of one time the last of a
//! conversation before the first. So no block goes while those behind it stay, unless a process was killed in between: what is left
//! without its beginning is not found, and is the oldest before long. Each process sees what others wrote after a sixteenth of the
//! limit at the latest.
//!
//! **The bucket** ([`bucket`]), if there is one, is behind the directory, and machines share it: what is not found in the one
//! ([`places`]) is looked for in the other. A thread sends what is written or begun with.
//!
//! **Stored** ([`storing`]) is what others may take of a session ([`super::Reuse`]): under two-level attention what was read as a prompt.
//! It begins once the prompt is read. Between steps the driver reads back a piece at a time, and a thread writes; where that
//! has too much to write, nothing is read back. Behind a block that could not be written nothing of its conversation is, since it would
//! not be found: it is tried again from there. Once nobody asks any more, what is left is stored before the steps end. A
//! conversation that is forgotten before, since its memory is needed, is stored as far as it had come.
//!
//! **Read** ([`arriving`]) is when a request is admitted, where the directory has more of it than any session. Threads read and check
//! ([`reading`]), a piece ahead; the driver brings each piece to where the session's blocks live between the steps of others. All
//! that was read and is not there yet has [`arriving::MOST_BYTES`] of CPU memory; who asked later waits for room.
//!
//! The thread that takes steps opens no file: it asks [`worker::Worker`]s, and looks between steps what came of it.
//!
//! There is no level between, in CPU memory: the operating system keeps what was read or written lately in its page cache, as much as is
//! free, least recently used, and for all processes at once.
//!
//! **What a restored beginning changes of an answer**: nothing where sums do not follow from how a prompt is cut into steps, as a
//! kept conversation changes nothing. Tokens are cut anew behind what was found, so products may take another path, and round
//! differently in their last bits. Under [`super::Reuse::Everything`] tokens of answers are stored as they were decoded. A KV cache in
//! q8_0 gives back what was rounded to it, also of the blocks that a fresh run still has as f16 in its window.

pub(super) mod arriving;
mod bucket;
mod directory;
mod file;
#[cfg(test)]
mod fixture;
mod key;
mod places;
mod reading;
mod rest;
pub(super) mod storing;
mod worker;

pub(super) use key::Chain;

use super::shared::Shared;
use crate::engine::{Engine, SessionFormat};
use crate::{Error, Result};
use bucket::{Bucket, Uploads};
use directory::Directory;
use key::Scheme;
use places::Places;
use reading::Reader;
use rest::REST;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use storing::{Look, Writer};
use worker::Worker;

// Every update leaves what is locked here whole, so that of a thread that panicked is too.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The version of what a block's key and payload mean.
const VERSION: u32 = 1;

/// A directory of sealed blocks that conversations begin with, now and in later runs.
#[derive(Clone, Debug)]
pub struct PrefixCache {
    /// The directory. It is made where it is not there, and may be that of other processes too, and of other models.
    pub directory: PathBuf,
    /// The most bytes of all its files.
    pub bytes: u64,
    /// The address of a bucket that other machines share: storage that speaks S3, `s3://BUCKET/FOLDER`, or a folder, `file:///FOLDER`.
    /// What the directory lacks comes from there, and what is stored goes there. Region, endpoint and keys are those of the environment,
    /// by the names of AWS's own programs (`AWS_REGION`, `AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`, and so on).
    pub bucket: Option<String>,
    /// The engine's model and settings.
    pub format: SessionFormat,
    /// Is told in a line when nothing can be stored, and why; answers go on.
    pub warn: fn(&str),
}

impl PrefixCache {
    /// Bytes of a directory, if nobody says how many.
    pub const BYTES: u64 = 64 << 30;

    /// A directory of [`Self::BYTES`] for blocks of an engine's format; warnings go to the log.
    pub fn new(directory: impl Into<PathBuf>, format: SessionFormat) -> Self {
        let warn = |line: &str| log::warn!("{line}");
        Self { directory: directory.into(), bytes: Self::BYTES, bucket: None, format, warn }
    }
}

impl PrefixCache {
    /// Whether a text can be the address of a [`Self::bucket`]: what can be told without asking it, of the environment's keys and
    /// endpoint too.
    ///
    /// # Errors
    /// [`Error::Argument`] for another text, for keys that are half set, and in a build without the feature `object-store`;
    /// [`Error::Io`] for a folder that is not there.
    pub fn check_bucket(url: &str) -> Result<()> {
        bucket::check(url)
    }
}

/// What a prefix cache did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefixStats {
    /// Requests that began with blocks of it.
    pub hits: u64,
    /// Tokens of these.
    pub tokens: u64,
    /// Bytes of blocks that were read.
    pub read_bytes: u64,
    /// Bytes of blocks that were written.
    pub written_bytes: u64,
    /// Blocks that were not what they should be.
    pub damaged: u64,
    /// Blocks that had to make room for others.
    pub evicted: u64,
    /// Blocks that could not be written.
    pub failed: u64,
    /// Bytes of blocks that came from the bucket.
    pub fetched_bytes: u64,
    /// Bytes of blocks that were sent there.
    pub sent_bytes: u64,
    /// Requests to it that failed.
    pub bucket_failed: u64,
}

/// A prefix cache at work.
pub(super) struct Prefix {
    scheme: Scheme,
    places: Places,
    /// Bytes of a block's payload.
    payload: usize,
    /// Looks for files, and removes some.
    files: Worker,
    reader: Reader,
    writer: Writer,
    /// What is looked for, of what is to be stored.
    look: Option<Look>,
    shared: Arc<Shared>,
}

impl Prefix {
    /// Opens a directory for the blocks of an engine.
    ///
    /// # Errors
    /// [`Error::Argument`] for a format that is not the engine's, and an address that is no bucket's; [`Error::Write`] for a directory that is not there and cannot be made;
    /// [`Error::Io`] where the system has no threads.
    pub(super) fn open(
        options: &PrefixCache,
        engine: &Engine,
        shared: &Arc<Shared>,
    ) -> Result<Self> {
        let PrefixCache { directory: path, bytes, bucket, format, warn } = options;
        if !engine.has_format(format) {
            let limit = "the prefix cache takes the blocks of the engine that answers";
            return Err(Error::argument("the format of the prefix cache", "another one", limit));
        }
        let mut identity = format.identity.clone();
        let mut also = |name: &str, value: String| identity.push((name.into(), value));
        also("the prefix cache's version", VERSION.to_string());
        // Where the KV cache lives changes nothing, but what it is rounded to does.
        also("the stored type", engine.stored_type().to_string());
        let scheme = Scheme::new(&identity, engine.options.block, engine.least_reused());
        let directory = Arc::new(Directory::open(path, *bytes)?);
        let failed = |source| Error::Io { path: "the threads of the prefix cache".into(), source };
        let files = Worker::start("prefix files").map_err(failed)?;
        let bucket = bucket
            .as_ref()
            .map(|url| Bucket::open(url, directory.clone(), *warn, shared.clone()).map(Arc::new));
        let bucket = bucket.transpose()?;
        let uploads = bucket.clone().map(Uploads::start).transpose().map_err(failed)?;
        let places = Places { directory: directory.clone(), bucket, shared: shared.clone() };
        let most = arriving::MOST_BYTES;
        let reader = Reader::start(places.clone(), most).map_err(failed)?;
        let uploads = uploads.map(Arc::new);
        let writer = Writer::start(directory, uploads, *warn, shared.clone(), REST);
        let (writer, payload) = (writer.map_err(failed)?, engine.sealed_bytes());
        let shared = shared.clone();
        Ok(Self { scheme, places, payload, files, reader, writer, look: None, shared })
    }
}
