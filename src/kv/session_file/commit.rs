//! A commit, which makes the blocks before it count: the table of a session's blocks, token ids and state, and a trailer,
//! which ends the file after a successful write.

use super::{ALIGNMENT, padded};
use crate::{Error, Result};
use bytemuck::{Pod, Zeroable};
use std::ops::Range;
use std::path::Path;

const MAGIC: [u8; 8] = *b"\nCOMMIT\n";

/// Where a block is, and what it must be.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Entry {
    pub offset: u64,
    pub checksum: u32,
    pub padding: u32,
}

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Trailer {
    pub magic: [u8; 8],
    /// Where its commit begins in the file: a copy of a commit is none.
    pub start: u64,
    pub tokens: u64,
    pub state_bytes: u64,
    pub blocks: u32,
    /// Of the commit before the trailer.
    pub content_checksum: u32,
    /// Of this with zero here.
    pub checksum: u32,
    pub padding: u32,
}

/// Where the parts of a commit are in the file.
#[derive(Clone, Debug)]
pub(super) struct Commit {
    pub start: usize,
    pub table: Range<usize>,
    pub tokens: Range<usize>,
    pub state: Range<usize>,
    pub end: usize,
}

/// A block's content, of a file of which this is known.
pub(super) fn block(file: &[u8], offset: u64, bytes: usize) -> Option<&[u8]> {
    let from = usize::try_from(offset).ok()?;
    file.get(from..from.checked_add(bytes)?)
}

impl Trailer {
    pub(super) fn sealed(mut self) -> Self {
        self.checksum = 0;
        self.checksum = crc32fast::hash(bytemuck::bytes_of(&self));
        self
    }

    /// The fault of this as the trailer at `at` of the commit before it, if there is one.
    fn damage(&self, file: &[u8], first: usize, at: usize) -> Option<String> {
        let (found, written) = (self.sealed().checksum, self.checksum);
        if self.magic != MAGIC || found != written {
            return Some(format!(
                "its trailer's checksum is {found:08x}, but {written:08x} was written"
            ));
        }
        let start = self.start;
        if !(first as u64..=at as u64).contains(&start) || !start.is_multiple_of(ALIGNMENT as u64) {
            return Some(format!(
                "it would begin at {start}, but commits begin between {first} and {at}"
            ));
        }
        let (found, written) = (crc32fast::hash(&file[start as usize..at]), self.content_checksum);
        (found != written)
            .then(|| format!("its checksum is {found:08x}, but {written:08x} was written"))
    }

    /// Whether this is a trailer of which only the first bytes are wrong.
    fn is_nameless(&self) -> bool {
        Self { magic: MAGIC, ..*self }.sealed().checksum == self.checksum
    }
}

impl Commit {
    /// That of a session without one: nothing, at the end of its header.
    pub(super) fn none(first: usize) -> Self {
        let nothing = first..first;
        Self {
            start: first,
            table: nothing.clone(),
            tokens: nothing.clone(),
            state: nothing,
            end: first,
        }
    }

    /// The bytes of a commit that begins at `start`, and the trailer that they end with.
    pub(super) fn encode(
        start: u64,
        table: &[Entry],
        tokens: &[u32],
        state: &[u8],
    ) -> (Vec<u8>, Trailer) {
        let parts: [&[u8]; 3] = [bytemuck::cast_slice(table), bytemuck::cast_slice(tokens), state];
        let mut bytes = parts.concat();
        bytes.resize(padded(bytes.len()), 0);
        let trailer = Trailer {
            magic: MAGIC,
            start,
            tokens: tokens.len() as u64,
            state_bytes: state.len() as u64,
            blocks: table.len() as u32,
            content_checksum: crc32fast::hash(&bytes),
            checksum: 0,
            padding: 0,
        }
        .sealed();
        bytes.extend(bytemuck::bytes_of(&trailer));
        (bytes, trailer)
    }

    /// The last commit of a file whose header ends at `first`. Behind it there may be what a write that was cut off left:
    /// that ends anywhere but in a trailer, which is written last.
    ///
    /// # Errors
    /// [`Error::File`] for a commit that was whole once and is no longer, and where there are bytes but no commit.
    pub(super) fn last(path: &Path, file: &[u8], first: usize, block_bytes: usize) -> Result<Self> {
        if file.len() == first {
            return Ok(Self::none(first));
        }
        let error = |offset: usize, problem| Error::File {
            path: path.to_owned(),
            offset: offset as u64,
            problem,
        };
        let mut damaged = None;
        let last = file.len() / ALIGNMENT * ALIGNMENT;
        for end in (first + size_of::<Trailer>()..=last).rev().step_by(ALIGNMENT) {
            let at = end - size_of::<Trailer>();
            let trailer: Trailer = bytemuck::pod_read_unaligned(&file[at..end]);
            if trailer.magic != MAGIC && !(end == last && trailer.is_nameless()) {
                continue;
            }
            match (trailer.damage(file, first, at), damaged) {
                (Some(damage), before) => damaged = before.or(Some((at, damage))),
                (None, None) => return Self::read(path, file, first, block_bytes, &trailer, at),
                (None, Some((damaged_at, damage))) => {
                    let tokens = trailer.tokens;
                    let problem = format!(
                        "the commit that ends here is damaged: {damage}; what was saved before it, {tokens} tokens, is whole: \
                         cut a copy of the file to {end} bytes to go on from there"
                    );
                    return Err(error(damaged_at, problem));
                }
            }
        }
        Err(match damaged {
            Some((at, damage)) => error(
                at,
                format!(
                    "the commit that ends here is damaged: {damage}; there is none before it, so nothing can be read; \
                     take a whole copy of the file, or delete it to begin anew"
                ),
            ),
            None => error(
                first,
                format!(
                    "{} bytes follow the header, but no commit: the first write was cut off, or the file was, and nothing \
                     can be read; take a whole copy of it, or delete it to begin anew",
                    file.len() - first
                ),
            ),
        })
    }

    /// The commit of a whole trailer, which was meant to be this: what does not fit is no accident of writing.
    pub(super) fn read(
        path: &Path,
        file: &[u8],
        first: usize,
        block_bytes: usize,
        trailer: &Trailer,
        at: usize,
    ) -> Result<Self> {
        let &Trailer { blocks, tokens, state_bytes, .. } = trailer;
        let start = trailer.start as usize;
        let part = |from: usize, count: u64, bytes: usize| {
            let bytes = usize::try_from(count).ok()?.checked_mul(bytes)?;
            let to = from.checked_add(bytes)?;
            (to <= at).then_some(from..to)
        };
        let parts = || {
            let table = part(start, blocks.into(), size_of::<Entry>())?;
            let tokens = part(table.end, tokens, size_of::<u32>())?;
            let state = part(tokens.end, state_bytes, 1)?;
            (padded(state.end) == at).then_some((table, tokens, state))
        };
        let error = |offset, problem| Error::File { path: path.to_owned(), offset, problem };
        let (table, tokens, state) = parts().ok_or_else(|| {
            let problem = format!(
                "a commit of {blocks} blocks, {tokens} tokens and {state_bytes} bytes of state has {} bytes",
                at - start
            );
            error(at as u64, problem)
        })?;
        let entries: &[Entry] = bytemuck::cast_slice(&file[table.clone()]);
        for (index, entry) in entries.iter().enumerate() {
            let is_placed = entry.offset >= first as u64
                && entry.offset.is_multiple_of(ALIGNMENT as u64)
                && block(&file[..start], entry.offset, block_bytes).is_some();
            if !is_placed {
                let offset = table.start + index * size_of::<Entry>();
                let problem = format!(
                    "block {index} would be at {}, but blocks are between {first} and {start}",
                    entry.offset
                );
                return Err(error(offset as u64, problem));
            }
        }
        Ok(Self { start, table, tokens, state, end: at + size_of::<Trailer>() })
    }
}
