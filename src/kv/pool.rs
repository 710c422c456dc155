//! Which physical block belongs to which sequences. Pure bookkeeping: blocks are counted, shared by forks, and copied
//! by the first sequence that appends to a shared one.

use crate::attention::Shape;
use crate::{Error, Result};
use std::sync::{Arc, Mutex, MutexGuard};

/// The free blocks and sequence slots of an engine.
#[derive(Clone, Debug)]
pub struct Pool {
    state: Arc<Mutex<State>>,
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

impl Pool {
    /// A pool of `blocks` blocks and `slots` sequence slots.
    pub fn new(blocks: u32, slots: u32) -> Self {
        let state = State {
            holders: vec![0; blocks as usize],
            free: (0..blocks).rev().collect(),
            slots: (0..slots).rev().collect(),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    // Every update leaves the state whole, so that of a thread that panicked is too.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Blocks that no sequence holds.
    pub fn free_blocks(&self) -> u32 {
        self.lock().free.len() as u32
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
    /// Physical block of each logical block.
    pub fn blocks(&self) -> &[u32] {
        &self.blocks
    }

    /// Makes room for tokens `from .. to` to be written: adds blocks, and replaces a shared block that would be written
    /// to. Returns (old, new) where a block's content must be copied first.
    ///
    /// # Errors
    /// [`Error::Argument`] when the pool has too few free blocks; nothing changes then.
    pub fn prepare(&mut self, from: u32, to: u32) -> Result<Option<(u32, u32)>> {
        let needed = to.div_ceil(Shape::BLOCK) as usize;
        let open = (from / Shape::BLOCK) as usize;
        let mut state = self.pool.lock();
        let copy = !from.is_multiple_of(Shape::BLOCK)
            && self.blocks.get(open).is_some_and(|&b| state.holders[b as usize] > 1);
        let wanted = needed.saturating_sub(self.blocks.len()) + usize::from(copy);
        if wanted > state.free.len() {
            let room = (state.free.len() as u32 - u32::from(copy).min(state.free.len() as u32))
                * Shape::BLOCK;
            return Err(Error::argument(
                "the context",
                format!("{to} tokens"),
                format!("memory was set aside for {} more; ask for a larger context", room),
            ));
        }
        let mut take = || {
            let block = state.free.pop().expect("counted above");
            state.holders[block as usize] = 1;
            block
        };
        let mut copied = None;
        if copy {
            let block = take();
            copied = Some((std::mem::replace(&mut self.blocks[open], block), block));
        }
        while self.blocks.len() < needed {
            let block = take();
            self.blocks.push(block);
        }
        if let Some((old, _)) = copied {
            state.release(old);
        }
        Ok(copied)
    }

    /// Keeps the blocks of the first `tokens` tokens.
    pub fn truncate(&mut self, tokens: u32) {
        let keep = tokens.div_ceil(Shape::BLOCK) as usize;
        let mut state = self.pool.lock();
        for block in self.blocks.drain(keep.min(self.blocks.len())..) {
            state.release(block);
        }
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

    #[test]
    fn forks_share_blocks_until_one_writes() {
        let pool = Pool::new(6, 2);
        let mut first = pool.table();
        assert_eq!(first.prepare(0, 100).unwrap(), None);
        assert_eq!(first.blocks(), [0, 1]);
        let mut second = first.fork();
        assert_eq!(pool.free_blocks(), 4);
        // The open block is shared: the writer gets a copy, the other keeps the original.
        assert_eq!(second.prepare(100, 130).unwrap(), Some((1, 2)));
        assert_eq!((first.blocks(), second.blocks()), (&[0, 1][..], &[0, 2, 3][..]));
        // Now each has its own.
        assert_eq!(first.prepare(100, 101).unwrap(), None);
        drop(first);
        assert_eq!(pool.free_blocks(), 3);
        second.truncate(64);
        assert_eq!((second.blocks(), pool.free_blocks()), (&[0][..], 5));
        // A full block is never written to, so appending after it copies nothing.
        let third = second.fork();
        assert_eq!(second.prepare(64, 65).unwrap(), None);
        drop((second, third));
        assert_eq!(pool.free_blocks(), 6);
    }

    #[test]
    fn a_pool_without_room_changes_nothing() {
        let pool = Pool::new(2, 1);
        let mut table = pool.table();
        table.prepare(0, 65).unwrap();
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
