//! The file in which a conversation lives between runs: the blocks of its cache, its token ids and what else its owner
//! needs in order to go on.
//!
//! A file begins with what it belongs to, and is only added to after that: blocks, then the commit that makes them
//! count, which is on the disk after them. A crash, a full disk or a cut-off copy costs what the last whole commit does
//! not count, and nothing before it. What such a write left stays where it is, and the next one goes behind it: a file
//! is never cut to what could be read of it. A commit that is damaged, which the end of a write is not, is an error, and
//! so are bytes without any commit. Everything that is read has a checksum. Opening maps the file and reads its ends:
//! blocks are checked when they are asked for.
//!
//! Header, blocks and commits begin at multiples of 16 bytes. Numbers are in the machine's byte order; in a file of the
//! other order the version is wrong.

mod append;
mod commit;
mod header;
mod locked;
#[cfg(test)]
mod tests;

pub use append::Append;

use crate::{Error, Result};
use commit::{Commit, Entry};
use header::Header;
use locked::Locked;
use memmap2::{Mmap, MmapOptions};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

const ALIGNMENT: usize = 16;

/// The bytes that something takes with the zeros after it.
fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGNMENT)
}

/// An open session, as its latest commit has it. Nobody else can write it meanwhile.
#[derive(Debug)]
pub struct SessionFile {
    path: PathBuf,
    file: Locked,
    /// The file up to the end of `commit`.
    map: Mmap,
    /// Where blocks and commits begin.
    first: usize,
    block_bytes: usize,
    commit: Commit,
    /// Where the file ends.
    end: u64,
    torn: u64,
    stamp: u64,
}

/// A name for the content of one commit within this process.
fn new_stamp() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

impl SessionFile {
    /// What the number is called in an identity that says how blocks and states are made. A session with another one was
    /// written by an older or a newer program, which the error tells.
    pub(crate) const FORMAT: &str = "the format";

    /// Begins a session that belongs to a model and its settings, given as names and values. Its blocks will have
    /// `block_bytes` bytes each. A file that is there must be empty.
    ///
    /// # Errors
    /// [`Error::Write`] for a file that cannot be written; [`Error::Argument`] for one that is there, and for an
    /// identity or blocks that are too large.
    pub(crate) fn create(
        path: &Path,
        identity: &[(String, String)],
        block_bytes: u64,
    ) -> Result<Self> {
        let header = Header::encode(identity, block_bytes)?;
        let failed = |source| Error::Write { path: path.to_owned(), source };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = Locked::open(path, &options, failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        if bytes > 0 {
            return Err(Error::argument(
                format!("the size of {}", path.display()),
                format!("{bytes} bytes"),
                "a session can begin only in a new or empty file",
            ));
        }
        (&*file).write_all(&header).and_then(|()| file.sync_all()).map_err(|source| {
            let _ = file.set_len(0);
            failed(source)
        })?;
        sync_name(path);
        Self::load(path, file, identity, block_bytes)
    }

    /// Opens a session that was begun for the same identity and size of blocks.
    ///
    /// # Errors
    /// [`Error::Argument`] for a session of something else, which names the first field that differs, what it is in the
    /// file and what it would have to be, and for one that is open already; [`Error::File`] for a file that is no
    /// session or one of another format, has lost its header, or has bytes but no whole commit at its end; [`Error::Io`]
    /// for one that cannot be read.
    pub(crate) fn open(
        path: &Path,
        identity: &[(String, String)],
        block_bytes: u64,
    ) -> Result<Self> {
        let failed = |source| Error::Io { path: path.to_owned(), source };
        let file = Locked::open(path, OpenOptions::new().read(true).write(true), failed)?;
        Self::load(path, file, identity, block_bytes)
    }

    /// The same of a session that will not be written, and may be where nothing can be. Others can read it too meanwhile.
    ///
    /// # Errors
    /// As [`SessionFile::open`].
    pub(crate) fn open_read_only(
        path: &Path,
        identity: &[(String, String)],
        block_bytes: u64,
    ) -> Result<Self> {
        let failed = |source| Error::Io { path: path.to_owned(), source };
        let file = Locked::shared(path, failed)?;
        Self::load(path, file, identity, block_bytes)
    }

    fn load(
        path: &Path,
        file: Locked,
        identity: &[(String, String)],
        block_bytes: u64,
    ) -> Result<Self> {
        let failed = |source| Error::Io { path: path.to_owned(), source };
        let bytes = file.metadata().map_err(failed)?.len();
        let map = map(path, &file, bytes)?;
        let header = Header::read(path, &map)?;
        header.expect(path, identity, block_bytes)?;
        let first = header.end;
        let block_bytes = header.block_bytes;
        let commit = Commit::last(path, &map, first, block_bytes)?;
        // The rest of a failed write behind the commit is cut off, which some systems refuse for what is mapped.
        drop(map);
        let map = self::map(path, &file, commit.end as u64)?;
        let (end, torn) = (bytes, bytes - commit.end as u64);
        let (path, stamp) = (path.to_owned(), new_stamp());
        Ok(Self { path, file, map, first, block_bytes, commit, end, torn, stamp })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the file.
    pub fn bytes(&self) -> u64 {
        self.end
    }

    /// The latest commit's name within this process: another number for every commit of every file, so that who
    /// has noted it knows later whether the blocks are still those.
    pub(crate) fn stamp(&self) -> u64 {
        self.stamp
    }

    /// The token ids of the conversation.
    pub fn tokens(&self) -> &[u32] {
        bytemuck::cast_slice(&self.map[self.commit.tokens.clone()])
    }

    /// The commit's state, as it was given.
    pub fn state(&self) -> &[u8] {
        &self.map[self.commit.state.clone()]
    }

    /// Bytes of a block.
    #[cfg_attr(feature = "measure", visibility::make(pub))]
    pub(crate) fn block_bytes(&self) -> u64 {
        self.block_bytes as u64
    }

    /// How many blocks the commit counts.
    pub fn blocks(&self) -> u32 {
        self.table().len() as u32
    }

    /// The content of a block.
    ///
    /// # Errors
    /// [`Error::File`] for a block that is not what was written; [`Error::Argument`] for one that does not exist.
    #[cfg_attr(feature = "measure", visibility::make(pub))]
    pub(crate) fn block(&self, index: u32) -> Result<&[u8]> {
        let table = self.table();
        let &Entry { offset, checksum, .. } = table.get(index as usize).ok_or_else(|| {
            Error::argument(
                "the index of a block",
                index,
                format!("{} has {} blocks", self.path.display(), table.len()),
            )
        })?;
        let problem = |problem| Error::File { path: self.path.clone(), offset, problem };
        let content = commit::block(&self.map, offset, self.block_bytes)
            .ok_or_else(|| problem(format!("block {index} is outside of the session")))?;
        let found = crc32fast::hash(content);
        if found != checksum {
            return Err(problem(format!(
                "block {index} is damaged: its checksum is {found:08x}, but {checksum:08x} was written"
            )));
        }
        Ok(content)
    }

    /// Bytes behind the last commit that were in the file when it was opened: what a write that was cut off left. They
    /// do not count, and stay where they are.
    pub fn torn_tail(&self) -> u64 {
        self.torn
    }

    /// Begins to add blocks and a commit.
    ///
    /// # Errors
    /// [`Error::Write`] for a file that cannot be written; [`Error::File`] for one that another program has changed;
    /// [`Error::Argument`] for one that was deleted or replaced meanwhile, and for one that is open to be read only.
    pub(crate) fn append(&mut self) -> Result<Append<'_>> {
        if self.file.is_shared {
            let what = format!("the session {}", self.path.display());
            return Err(Error::argument(what, "open to be read", "it would have to be written"));
        }
        self.file.check_name()?;
        let bytes = self.length()?;
        if bytes != self.end {
            let (offset, end) = (bytes.min(self.end), self.end);
            let problem =
                format!("the file had {end} bytes, but another program has made it {bytes}");
            return Err(Error::File { path: self.path.clone(), offset, problem });
        }
        Ok(Append::new(self))
    }

    /// Writes the file anew if more than half of it are replaced blocks and earlier commits, and puts it in the old
    /// one's place when it is whole. An error leaves the old one; so does a torn tail, which nobody has read.
    ///
    /// # Errors
    /// [`Error::Write`] for a file that cannot be written; [`Error::File`] for a damaged block; [`Error::Argument`] for
    /// a file that was deleted or replaced meanwhile.
    pub fn compact(self) -> Result<Self> {
        if self.file.is_shared || self.torn > 0 || self.garbage() <= self.commit.end / 2 {
            return Ok(self);
        }
        self.file.check_name()?;
        let failed = |source| Error::Write { path: self.path.clone(), source };
        // The target of a link is replaced, not the link.
        let target = fs::canonicalize(&self.path).map_err(failed)?;
        let mut name = OsString::from(".");
        name.push(target.file_name().unwrap_or_default());
        name.push(".compact");
        // Of one name, so that what a crash leaves is removed by the next attempt; this file's lock covers it.
        let beside = target.with_file_name(name);
        let _ = fs::remove_file(&beside);
        let mut copy = self.copy(&beside).inspect_err(|_| {
            let _ = fs::remove_file(&beside);
        })?;
        let Self { path, file, map, .. } = self;
        // Some systems refuse to replace what is mapped. The lock lasts until the new file, locked too, is in place.
        drop(map);
        copy.file.rename(&target).map_err(|source| {
            let _ = fs::remove_file(&beside);
            Error::Write { path, source }
        })?;
        drop(file);
        sync_name(&target);
        Ok(copy)
    }

    /// The latest commit and its blocks as a file of their own, which errors call by this one's name.
    fn copy(&self, to: &Path) -> Result<Self> {
        let failed = |source| Error::Write { path: self.path.clone(), source };
        let mut options = OpenOptions::new();
        let file = Locked::open(to, options.read(true).write(true).create_new(true), failed)?;
        let permissions = self.file.metadata().map_err(failed)?.permissions();
        file.set_permissions(permissions).map_err(failed)?;
        (&*file).write_all(&self.map[..self.first]).map_err(failed)?;
        let mut copy = Self {
            path: self.path.clone(),
            map: map(&self.path, &file, self.first as u64)?,
            file,
            commit: Commit::none(self.first),
            end: self.first as u64,
            ..*self
        };
        let mut append = copy.append()?;
        for index in 0..self.blocks() {
            append.block(index, self.block(index)?)?;
        }
        append.commit(self.blocks(), self.tokens(), self.state())?;
        copy.stamp = self.stamp;
        Ok(copy)
    }

    /// Bytes that nothing in the latest commit refers to; none in a file made so that blocks overlap.
    fn garbage(&self) -> usize {
        let blocks = self.table().len().saturating_mul(padded(self.block_bytes));
        (self.commit.start - self.first).saturating_sub(blocks)
    }

    fn table(&self) -> &[Entry] {
        bytemuck::cast_slice(&self.map[self.commit.table.clone()])
    }

    fn length(&self) -> Result<u64> {
        let failed = |source| Error::Io { path: self.path.clone(), source };
        Ok(self.file.metadata().map_err(failed)?.len())
    }
}

fn map(path: &Path, file: &File, bytes: u64) -> Result<Mmap> {
    let failed = |source| Error::Io { path: path.to_owned(), source };
    let bytes = usize::try_from(bytes).map_err(|_| failed(ErrorKind::FileTooLarge.into()))?;
    // SAFETY: The map is only read, and what is in it is never written again. The lock keeps other runs of this program
    // away; that no other program changes or truncates the file cannot be checked, as with every map of a file. The
    // places of blocks are checked at every access, and the rest is numbers for which any bits are valid.
    unsafe { MmapOptions::new().len(bytes).map(file) }.map_err(failed)
}

/// Brings a file's name to the disk, where that is a matter of its own and can be asked for.
fn sync_name(path: &Path) {
    let directory = fs::canonicalize(path).ok().and_then(|path| File::open(path.parent()?).ok());
    if let Some(directory) = directory {
        let _ = directory.sync_all();
    }
}
