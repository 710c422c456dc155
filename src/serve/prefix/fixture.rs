//! Conversations and blocks for tests.

use super::file;
use super::key::{Chain, Link, Scheme};

/// Tokens of a block, and bytes of its payload.
pub(super) const BLOCK: usize = 4;
pub(super) const PAYLOAD: usize = 1000;

/// A conversation: its tokens, and its blocks.
pub(super) fn talk(seed: u32, blocks: usize) -> (Vec<u32>, Vec<Link>) {
    let scheme = Scheme::new(&[("the model".into(), "one".into())], BLOCK as u32, 0);
    let tokens: Vec<u32> = (0..(blocks * BLOCK) as u32).map(|i| i * 7 + seed).collect();
    let mut chain = Chain::default();
    chain.extend(&scheme, &tokens);
    let links = (0..blocks).map(|block| chain.link(block)).collect();
    (tokens, links)
}

/// A block's tokens, of those of its conversation.
pub(super) fn tokens_of<'t>(tokens: &'t [u32], link: &Link) -> &'t [u32] {
    &tokens[link.block as usize * BLOCK..][..BLOCK]
}

/// A block's payload, which no other has.
pub(super) fn payload(link: &Link) -> Vec<u8> {
    link.key.bytes().iter().copied().cycle().take(PAYLOAD).collect()
}

/// Bytes of a block's file.
pub(super) fn file_bytes() -> u64 {
    (file::HEAD_BYTES + BLOCK * 4 + PAYLOAD) as u64
}
