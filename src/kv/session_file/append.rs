//! Additions to a session: all of one or nothing.

use super::commit::{Commit, Entry};
use super::{ALIGNMENT, SessionFile, padded};
use crate::{Error, Result};
use std::collections::HashMap;
use std::io::{Seek, SeekFrom, Write};

/// Blocks on their way into a session. They count once [`Append::commit`] has returned; dropped without it, they are
/// removed.
#[derive(Debug)]
pub struct Append<'a> {
    session: &'a mut SessionFile,
    /// Where the next write goes.
    end: u64,
    written: HashMap<u32, Entry>,
}

impl<'a> Append<'a> {
    pub(super) fn new(session: &'a mut SessionFile) -> Self {
        let end = session.end.next_multiple_of(ALIGNMENT as u64);
        Self { session, end, written: HashMap::new() }
    }

    /// Writes a block, in place of one of this index that may be there.
    ///
    /// # Errors
    /// [`Error::Write`] for a file that cannot be written, such as on a full disk; [`Error::Argument`] for a block of
    /// another size than the session's.
    pub fn block(&mut self, index: u32, content: &[u8]) -> Result<()> {
        let bytes = self.session.block_bytes;
        if content.len() != bytes {
            return Err(Error::argument(
                format!("the size of block {index}"),
                format!("{} bytes", content.len()),
                format!("{} has blocks of {bytes}", self.session.path.display()),
            ));
        }
        let checksum = crc32fast::hash(content);
        let entry = Entry { offset: self.end, checksum, padding: 0 };
        self.write(content)?;
        self.write(&[0; ALIGNMENT][..padded(bytes) - bytes])?;
        self.written.insert(index, entry);
        Ok(())
    }

    /// Makes the session hold these tokens and this state, and its first `blocks` blocks: each as written here, else as
    /// it was before. When this returns, all of it is on the disk.
    ///
    /// # Errors
    /// [`Error::Write`] for a file that cannot be written; [`Error::Argument`] when a block was never written, and for a
    /// file that was deleted or replaced meanwhile. The session is what it was before, and so is the file unless even
    /// that is refused: then it may hold the commit.
    pub fn commit(mut self, blocks: u32, tokens: &[u32], state: &[u8]) -> Result<()> {
        let before = self.session.table();
        let entry = |index| {
            let entry = self.written.get(&index).or_else(|| before.get(index as usize));
            entry.copied().ok_or_else(|| {
                Error::argument(
                    format!("the number of blocks of {}", self.session.path.display()),
                    blocks,
                    format!("block {index} was not written"),
                )
            })
        };
        let table = (0..blocks).map(entry).collect::<Result<Vec<_>>>()?;
        let (commit, trailer) = Commit::encode(self.end, &table, tokens, state);
        self.sync()?;
        self.write(&commit)?;
        let session = &*self.session;
        let map = super::map(&session.path, &session.file, self.end)?;
        let at = map.len() - size_of_val(&trailer);
        let (first, block_bytes) = (session.first, session.block_bytes);
        let commit = Commit::read(&session.path, &map, first, block_bytes, &trailer, at)?;
        self.sync()?;
        // The name may have become another file's while this was written.
        self.session.file.check_name()?;
        self.session.end = self.end;
        self.session.map = map;
        self.session.commit = commit;
        self.session.stamp = super::new_stamp();
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let mut file = &*self.session.file;
        // Not where a write that failed has left it.
        file.seek(SeekFrom::Start(self.end))
            .and_then(|_| file.write_all(bytes))
            .map_err(|source| Error::Write { path: self.session.path.clone(), source })?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        let failed = |source| Error::Write { path: self.session.path.clone(), source };
        self.session.file.sync_data().map_err(failed)
    }
}

impl Drop for Append<'_> {
    fn drop(&mut self) {
        let session = &mut *self.session;
        let end = session.end;
        if session.length().is_ok_and(|bytes| bytes > end) {
            // On the disk at once: what comes next must never be joined with the rest of what was here.
            let _ = session.file.set_len(end).and_then(|()| session.file.sync_data());
        }
        // Where even that is refused, the next append goes behind what is there.
        session.end = session.length().map_or(end, |bytes| bytes.max(end));
    }
}
