//! Which physical block belongs to which sequences. Pure bookkeeping: blocks are counted, shared by forks, and copied
//! by the first sequence that appends to a shared one.

use crate::{Error, Result};
use std::sync::{Arc, Mutex, MutexGuard};

/// The free blocks and sequence slots of an engine.
#[derive(Clone, Debug)]
pub struct Pool {
    state: Arc<Mutex<State>>,
    block_tokens: u32,
}

#[derive(Debug)]
struct State {
    /// How many tables hold each block.
    holders: Vec<u32>,
    /// Free blocks, the lowest last.
    free: Vec<u32>,
    /// Free sequence slots, the lowest last.
    slots: Vec<u32>,
}

/// A sequence slot: the place of per-sequence state on the GPU. Returned when dropped.
#[derive(Debug)]
pub struct Slot {
    /// Its number.
    pub index: u32,
    pool: Pool,
}

/// The blocks of one sequence in order. Returned when dropped.
#[derive(Debug)]
pub struct BlockTable {
    blocks: Vec<u32>,
    pool: Pool,
}

/// Blocks that [`BlockTable::prepare`] added and replaced.
#[derive(Debug)]
#[must_use]
pub struct Prepared {
    /// The block whose content must be copied, and the one that replaces it. The old one is held until the commit.
    pub copied: Option<(u32, u32)>,
    open: usize,
    before: usize,
}

impl Pool {
    /// A pool of `blocks` blocks of `block_tokens` tokens, and `slots` sequence slots.
    pub fn new(blocks: u32, block_tokens: u32, slots: u32) -> Self {
        let state = State {
            holders: vec![0; blocks as usize],
            free: (0..blocks).rev().collect(),
            slots: (0..slots).rev().collect(),
        };
        Self { state: Arc::new(Mutex::new(state)), block_tokens }
    }

    // Every update leaves the state whole, so that of a thread that panicked is too.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Blocks that no sequence holds.
    pub fn free_blocks(&self) -> u32 {
        self.lock().free.len() as u32
    }

    /// Whether a sequence holds a block.
    #[cfg(feature = "measure")]
    pub fn is_held(&self, block: u32) -> bool {
        self.lock().holders[block as usize] > 0
    }

    /// Takes a sequence slot.
    ///
    /// # Errors
    /// [`Error::Argument`] when all are taken.
    pub fn slot(&self) -> Result<Slot> {
        let index = self.lock().slots.pop().ok_or_else(|| {
            Error::argument(
                "the number of sessions",
                "one more",
                "every session of this engine is in use",
            )
        })?;
        Ok(Slot { index, pool: self.clone() })
    }

    /// Whether a table holds blocks of this pool.
    pub fn owns(&self, table: &BlockTable) -> bool {
        Arc::ptr_eq(&self.state, &table.pool.state)
    }

    /// An empty table.
    pub fn table(&self) -> BlockTable {
        BlockTable { blocks: Vec::new(), pool: self.clone() }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.pool.lock().slots.push(self.index);
    }
}

impl BlockTable {
    /// Tokens in a block.
    pub fn block_tokens(&self) -> u32 {
        self.pool.block_tokens
    }

    /// Physical block of each logical block.
    pub fn blocks(&self) -> &[u32] {
        &self.blocks
    }

    /// Makes room for tokens `from .. to` to be written: adds blocks, and replaces a shared block that would be written
    /// to. What is returned must be given to [`BlockTable::commit`] once the content is copied, or to
    /// [`BlockTable::undo`].
    ///
    /// # Errors
    /// [`Error::Argument`] when the pool has too few free blocks; nothing changes then.
    pub fn prepare(&mut self, from: u32, to: u32) -> Result<Prepared> {
        let block_tokens = self.pool.block_tokens;
        let needed = to.div_ceil(block_tokens) as usize;
        let open = (from / block_tokens) as usize;
        let mut state = self.pool.lock();
        let copy = !from.is_multiple_of(block_tokens)
            && self.blocks.get(open).is_some_and(|&b| state.holders[b as usize] > 1);
        let before = self.blocks.len();
        let wanted = needed.saturating_sub(before) + usize::from(copy);
        let free = state.free.len();
        if wanted > free {
            let room = free.saturating_sub(usize::from(copy)) as u32 * block_tokens;
            return Err(Error::argument(
                "the context",
                format!("{to} tokens"),
                format!("memory was set aside for {room} more; ask for a larger context"),
            ));
        }
        let mut take = || {
            let block = state.free.pop().expect("counted above");
            state.holders[block as usize] = 1;
            block
        };
        let copied = copy.then(|| {
            let block = take();
            (std::mem::replace(&mut self.blocks[open], block), block)
        });
        while self.blocks.len() < needed {
            let block = take();
            self.blocks.push(block);
        }
        Ok(Prepared { copied, open, before })
    }

    /// The blocks that a preparation added.
    pub fn added(&self, prepared: &Prepared) -> &[u32] {
        &self.blocks[prepared.before..]
    }

    /// Gives up the block that was copied.
    pub fn commit(&self, prepared: Prepared) {
        if let Some((old, _)) = prepared.copied {
            self.pool.lock().release(old);
        }
    }

    /// Takes a preparation back.
    pub fn undo(&mut self, prepared: Prepared) {
        let mut state = self.pool.lock();
        for block in self.blocks.drain(prepared.before..) {
            state.release(block);
        }
        if let Some((old, new)) = prepared.copied {
            self.blocks[prepared.open] = old;
            state.release(new);
        }
    }

    /// Keeps the blocks of the first `tokens` tokens.
    pub fn truncate(&mut self, tokens: u32) {
        let keep = tokens.div_ceil(self.pool.block_tokens) as usize;
        let mut state = self.pool.lock();
        for block in self.blocks.drain(keep.min(self.blocks.len())..) {
            state.release(block);
        }
    }

    /// Blocks that no other table holds.
    pub fn alone(&self) -> u32 {
        let state = self.pool.lock();
        self.blocks.iter().filter(|block| state.holders[**block as usize] == 1).count() as u32
    }

    /// Whether the block that is written to after so many tokens is another table's too.
    pub fn shares_open(&self, tokens: u32) -> bool {
        let open = self.blocks.get((tokens / self.pool.block_tokens) as usize);
        open.is_some_and(|block| self.pool.lock().holders[*block as usize] > 1)
    }

    /// A table that shares all blocks.
    pub fn fork(&self) -> Self {
        let mut state = self.pool.lock();
        for &block in &self.blocks {
            state.holders[block as usize] += 1;
        }
        Self { blocks: self.blocks.clone(), pool: self.pool.clone() }
    }
}

impl State {
    fn release(&mut self, block: u32) {
        let holders = &mut self.holders[block as usize];
        *holders -= 1;
        if *holders == 0 {
            self.free.push(block);
        }
    }
}

impl Drop for BlockTable {
    fn drop(&mut self) {
        self.truncate(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Prepares and commits at once; what was copied.
    fn write(table: &mut BlockTable, from: u32, to: u32) -> Option<(u32, u32)> {
        let prepared = table.prepare(from, to).unwrap();
        let copied = prepared.copied;
        table.commit(prepared);
        copied
    }

    #[test]
    fn forks_share_blocks_until_one_writes() {
        let pool = Pool::new(6, 64, 2);
        let mut first = pool.table();
        assert_eq!(write(&mut first, 0, 100), None);
        assert_eq!(first.blocks(), [0, 1]);
        let mut second = first.fork();
        assert_eq!(pool.free_blocks(), 4);
        // The open block is shared: the writer gets a copy, the other keeps the original.
        assert_eq!(write(&mut second, 100, 130), Some((1, 2)));
        assert_eq!((first.blocks(), second.blocks()), (&[0, 1][..], &[0, 2, 3][..]));
        // Now each has its own.
        assert_eq!(write(&mut first, 100, 101), None);
        drop(first);
        assert_eq!(pool.free_blocks(), 3);
        second.truncate(64);
        assert_eq!((second.blocks(), pool.free_blocks()), (&[0][..], 5));
        // A full block is never written to, so appending after it copies nothing.
        let third = second.fork();
        assert_eq!(write(&mut second, 64, 65), None);
        drop((second, third));
        assert_eq!(pool.free_blocks(), 6);
    }

    #[test]
    fn what_is_taken_back_leaves_no_trace() {
        let pool = Pool::new(6, 16, 2);
        let mut first = pool.table();
        write(&mut first, 0, 20);
        let mut second = first.fork();
        let prepared = second.prepare(20, 50).unwrap();
        assert_eq!(prepared.copied, Some((1, 2)));
        second.undo(prepared);
        assert_eq!((second.blocks(), pool.free_blocks()), (first.blocks(), 4));
        // The old block is held between preparation and commit, whatever happens to the fork's parent.
        let prepared = second.prepare(20, 21).unwrap();
        drop(first);
        assert_eq!(pool.free_blocks(), 3);
        second.undo(prepared);
        assert_eq!((second.blocks(), pool.free_blocks()), (&[0, 1][..], 4));
    }

    #[test]
    fn a_pool_without_room_changes_nothing() {
        let pool = Pool::new(2, 64, 1);
        let mut table = pool.table();
        write(&mut table, 0, 65);
        let fork = table.fork();
        let message = table.prepare(65, 66).unwrap_err().to_string();
        assert!(message.contains("66 tokens"), "{message}");
        assert_eq!(table.blocks(), fork.blocks());
        let slot = pool.slot().unwrap();
        assert!(pool.slot().is_err());
        drop(slot);
        assert_eq!(pool.slot().unwrap().index, 0);
    }
}
