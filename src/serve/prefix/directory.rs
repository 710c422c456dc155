//! The directory of a prefix cache: a file a block, under a folder of its key's first byte.

use super::file::{self, Absent};
use super::key::Link;
use crate::model::random_seed;
use crate::{Error, Result};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Where files are until they are whole.
const UNFINISHED: &str = "unfinished";

/// How old a file there is that nobody writes any more.
const ABANDONED: Duration = Duration::from_secs(3600);

/// Of the limit, the part that is written before it is looked again what others wrote, and that is free after an eviction.
const SLACK: u64 = 16;

/// Blocks in files.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    /// Bytes of all files.
    limit: u64,
}

/// What is known of the files of a directory, by who writes to it.
#[derive(Debug, Default)]
pub(super) struct Held {
    bytes: u64,
    /// Bytes written since all files were looked at; nothing before the first time.
    written: Option<u64>,
}

impl Held {
    /// Notes that so many bytes were written.
    pub(super) fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.written = self.written.map(|written| written + bytes);
    }
}

/// A file of a block.
#[derive(Debug)]
struct Entry {
    used: SystemTime,
    block: u32,
    bytes: u64,
    path: PathBuf,
}

impl Directory {
    /// A directory, which is made where it is not there, for its owner alone: prompts can be read from it.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub(super) fn open(path: &Path, limit: u64) -> Result<Self> {
        let made = private().recursive(true).create(path);
        made.map_err(|source| Error::Write { path: path.into(), source })?;
        Ok(Self { path: path.into(), limit })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn place(&self, link: &Link) -> PathBuf {
        self.path.join(place(link))
    }

    /// Whether a block is there, whatever its content.
    pub(super) fn contains(&self, link: &Link) -> bool {
        fs::metadata(self.place(link)).is_ok()
    }

    /// Reads the payload of a block of these tokens, as [`file::read`].
    pub(super) fn read(
        &self,
        link: &Link,
        tokens: &[u32],
        payload: &mut [u8],
    ) -> std::result::Result<(), Absent> {
        file::read(File::open(self.place(link))?, link, tokens, payload)
    }

    /// A block's file, if it is whole.
    pub(super) fn whole(&self, link: &Link) -> Option<Vec<u8>> {
        let bytes = fs::read(self.place(link)).ok()?;
        file::is_whole(&bytes, link).then_some(bytes)
    }

    /// Removes a block that is not what it should be; where that is not allowed it stays, and is passed over again.
    pub(super) fn remove(&self, link: &Link) {
        let _ = fs::remove_file(self.place(link));
    }

    /// Notes that a block was used at a time, unless it was used later. One that cannot be touched stays as old as it is.
    pub(super) fn touch(&self, link: &Link, used: SystemTime) {
        let path = self.place(link);
        let is_older = |then: SystemTime| then < used;
        if fs::metadata(&path).and_then(|there| there.modified()).is_ok_and(is_older) {
            let _ =
                OpenOptions::new().append(true).open(path).and_then(|file| file.set_modified(used));
        }
    }

    /// Writes a block that was used at a time. Room has been made for it.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn write(
        &self,
        link: &Link,
        tokens: &[u32],
        payload: &[u8],
        used: SystemTime,
    ) -> io::Result<()> {
        let place = self.place(link);
        let beside = self.path.join(UNFINISHED);
        make(&beside)?;
        make(place.parent().expect("it is in a folder"))?;
        let beside = beside.join(format!("{}-{:x}", std::process::id(), random_seed()));
        let head = file::head(link, tokens, payload);
        let written = put(&beside, &[&head, payload]);
        let written = written.and_then(|file| fs::rename(&beside, &place).map(|()| file));
        let file = written.inspect_err(|_| {
            let _ = fs::remove_file(&beside);
        })?;
        // Not before it has its name: who looks through the directory takes an unfinished file of an old time for one that nobody
        // writes any more.
        file.set_modified(used)
    }

    /// Makes room for so many bytes more: how many blocks had to go. None where there can be no room.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn make_room(&self, bytes: u64, held: &mut Held) -> io::Result<Option<u64>> {
        if bytes > self.limit {
            return Ok(None);
        }
        let is_known = held.written.is_some_and(|written| written < self.limit / SLACK);
        let mut evicted = 0;
        if !is_known || held.bytes + bytes > self.limit {
            let entries = self.look(held)?;
            if held.bytes + bytes > self.limit {
                let most = (self.limit - self.limit / SLACK).min(self.limit - bytes);
                evicted = evict(entries, held, most)?;
            }
        }
        held.add(bytes);
        Ok(Some(evicted))
    }

    /// Makes room on a disk that is full before the limit is reached: how many blocks had to go.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn shrink(&self, held: &mut Held) -> io::Result<u64> {
        let entries = self.look(held)?;
        let most = held.bytes - held.bytes.div_ceil(SLACK);
        evict(entries, held, most)
    }

    // All blocks, and what they hold.
    fn look(&self, held: &mut Held) -> io::Result<Vec<Entry>> {
        let entries = self.entries()?;
        *held = Held { bytes: entries.iter().map(|entry| entry.bytes).sum(), written: Some(0) };
        Ok(entries)
    }

    // All blocks. What nobody will finish is removed.
    fn entries(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for folder in fs::read_dir(&self.path)?.flatten() {
            // What is no folder, or is gone, has no files.
            let Ok(files) = fs::read_dir(folder.path()) else { continue };
            let is_unfinished = folder.file_name() == UNFINISHED;
            for file in files.flatten() {
                let (Ok(metadata), path) = (file.metadata(), file.path()) else { continue };
                let Ok(used) = metadata.modified() else { continue };
                if is_unfinished {
                    if used.elapsed().is_ok_and(|age| age > ABANDONED) {
                        let _ = fs::remove_file(path);
                    }
                    continue;
                }
                let Some(block) = named(&folder.file_name(), &file.file_name()) else { continue };
                entries.push(Entry { used, block, bytes: metadata.len(), path });
            }
        }
        Ok(entries)
    }
}

/// The name of a block's file, with its folder. Blocks of one key have one place, so the name tells it: who evicts need not open the
/// file.
pub(super) fn place(link: &Link) -> String {
    let (key, block) = (link.key.to_string(), link.block);
    format!("{}/{}.{block}", &key[..2], &key[2..])
}

// Removes the oldest until so many bytes are held; how many.
fn evict(mut entries: Vec<Entry>, held: &mut Held, most: u64) -> io::Result<u64> {
    entries.sort_by_key(|entry| (entry.used, std::cmp::Reverse(entry.block)));
    let mut evicted = 0;
    for entry in entries {
        if held.bytes <= most {
            break;
        }
        match fs::remove_file(&entry.path) {
            Ok(()) => evicted += 1,
            // Another process was as quick.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        held.bytes -= entry.bytes;
    }
    Ok(evicted)
}

// The place of the block whose file has this name; none of a file that is somebody else's.
fn named(folder: &OsStr, file: &OsStr) -> Option<u32> {
    let is_hex = |text: &str, digits| {
        text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let (key, block) = file.to_str()?.split_once('.')?;
    let is_block = is_hex(folder.to_str()?, 2) && is_hex(key, 62);
    block.parse().ok().filter(|_| is_block)
}

// Makes folders for their owner alone.
fn private() -> fs::DirBuilder {
    #[cfg_attr(not(unix), expect(unused_mut))]
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
}

// A folder, which may be there.
fn make(folder: &Path) -> io::Result<()> {
    match private().create(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn put(path: &Path, parts: &[&[u8]]) -> io::Result<File> {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.write(true).create_new(true).open(path)?;
    parts.iter().try_for_each(|part| file.write_all(part))?;
    Ok(file)
}

#[cfg(test)]
mod tests;
