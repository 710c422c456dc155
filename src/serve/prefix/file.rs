//! The file of a block: what it is, its tokens, its payload. Numbers are in the machine's byte order; in a file of the other order the
//! version is wrong.

use super::key::Link;
use bytemuck::{Pod, Zeroable};
use std::io::{self, ErrorKind, Read};

const MAGIC: [u8; 8] = *b"TLSblock";
const VERSION: u32 = 1;

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Start {
    magic: [u8; 8],
    version: u32,
    /// The block's place.
    block: u32,
    tokens: u64,
    payload_bytes: u64,
    key: [u8; 32],
    parent: [u8; 32],
    /// Of the payload.
    payload_checksum: u32,
    /// Of this with zero here, and the tokens.
    checksum: u32,
}

/// Bytes before the tokens.
pub(super) const HEAD_BYTES: usize = size_of::<Start>();

impl Start {
    fn sealed(mut self, tokens: &[u32]) -> Self {
        self.checksum = 0;
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(bytemuck::bytes_of(&self));
        hasher.update(bytemuck::cast_slice(tokens));
        self.checksum = hasher.finalize();
        self
    }
}

/// Why there is no block.
#[derive(Debug)]
pub(super) enum Absent {
    /// It cannot be read, or is not there.
    Unreadable,
    /// It is not what it should be.
    Damaged,
}

impl From<io::Error> for Absent {
    fn from(error: io::Error) -> Self {
        if error.kind() == ErrorKind::UnexpectedEof { Self::Damaged } else { Self::Unreadable }
    }
}

/// What comes before the payload of a block's file.
pub(super) fn head(link: &Link, tokens: &[u32], payload: &[u8]) -> Vec<u8> {
    let start = Start {
        magic: MAGIC,
        version: VERSION,
        block: link.block,
        tokens: tokens.len() as u64,
        payload_bytes: payload.len() as u64,
        key: *link.key.bytes(),
        parent: *link.parent.bytes(),
        payload_checksum: crc32fast::hash(payload),
        checksum: 0,
    };
    [bytemuck::bytes_of(&start.sealed(tokens)), bytemuck::cast_slice(tokens)].concat()
}

/// Whether a file is that of a block with this key, of any tokens and payload.
pub(super) fn is_whole(file: &[u8], link: &Link) -> bool {
    let Some((start, rest)) = file.split_at_checked(HEAD_BYTES) else { return false };
    let start: Start = bytemuck::pod_read_unaligned(start);
    let tokens = usize::try_from(start.tokens).ok().and_then(|count| count.checked_mul(4));
    let Some((there, payload)) = tokens.and_then(|bytes| rest.split_at_checked(bytes)) else {
        return false;
    };
    let tokens: Vec<u32> = bytemuck::pod_collect_to_vec(there);
    read(file, link, &tokens, &mut vec![0; payload.len()]).is_ok()
}

/// Reads the payload of a file that should be this block of these tokens, as long as `payload` is. Where it is not, what is in there
/// afterwards is worth nothing.
pub(super) fn read(
    mut file: impl Read,
    link: &Link,
    tokens: &[u32],
    payload: &mut [u8],
) -> Result<(), Absent> {
    let mut start = Start::zeroed();
    file.read_exact(bytemuck::bytes_of_mut(&mut start))?;
    let mut there = vec![0u32; tokens.len()];
    let expected = Start {
        magic: MAGIC,
        version: VERSION,
        block: link.block,
        tokens: tokens.len() as u64,
        payload_bytes: payload.len() as u64,
        key: *link.key.bytes(),
        parent: *link.parent.bytes(),
        payload_checksum: start.payload_checksum,
        checksum: 0,
    };
    file.read_exact(bytemuck::cast_slice_mut(&mut there))?;
    if there != tokens || bytemuck::bytes_of(&expected.sealed(tokens)) != bytemuck::bytes_of(&start)
    {
        return Err(Absent::Damaged);
    }
    file.read_exact(payload)?;
    let is_longer = file.take(1).read_to_end(&mut Vec::new())? > 0;
    if is_longer || crc32fast::hash(payload) != start.payload_checksum {
        return Err(Absent::Damaged);
    }
    Ok(())
}
