//! The window of the hot cache: slots that all layers and heads share, for the blocks that every step attends or writes to. Pure.

use crate::kernels::NO_SLOT;

/// Which blocks lie in the window, and where.
#[derive(Clone, Debug)]
pub struct Window {
    /// Slot of each physical block, or [`NO_SLOT`].
    slots: Vec<u32>,
    /// Block of each slot.
    blocks: Vec<Option<u32>>,
}

impl Window {
    /// A window of `slots` slots over a pool of `blocks` blocks.
    pub fn new(slots: u32, blocks: u32) -> Self {
        Self { slots: vec![NO_SLOT; blocks as usize], blocks: vec![None; slots as usize] }
    }

    /// Where a block is.
    pub fn slot(&self, block: u32) -> Option<u32> {
        Some(self.slots[block as usize]).filter(|&slot| slot != NO_SLOT)
    }

    /// Slot of each of these blocks that is one of the `kept`, numbers of theirs, and [`NO_SLOT`] for the others: what lies here
    /// still is nothing that a step may rely on, and where bytes are stored not the same numbers.
    pub fn table(&self, blocks: &[u32], kept: &[u32]) -> Vec<u32> {
        let mut table = vec![NO_SLOT; blocks.len()];
        for &number in kept {
            if let Some(&block) = blocks.get(number as usize) {
                table[number as usize] = self.slots[block as usize];
            }
        }
        table
    }

    /// A slot for a block: its own, a free one, or that of a block that `is_written_back`. None where there is no such slot.
    pub fn admit(&mut self, block: u32, is_written_back: impl Fn(u32) -> bool) -> Option<u32> {
        if let Some(slot) = self.slot(block) {
            return Some(slot);
        }
        let free = self.blocks.iter().position(Option::is_none);
        let slot =
            free.or_else(|| self.blocks.iter().position(|b| b.is_some_and(&is_written_back)))?;
        if let Some(left) = self.blocks[slot].replace(block) {
            self.slots[left as usize] = NO_SLOT;
        }
        self.slots[block as usize] = slot as u32;
        Some(slot as u32)
    }

    /// Forgets all blocks but these.
    #[cfg(feature = "measure")]
    pub fn keep(&mut self, is_kept: impl Fn(u32) -> bool) {
        let here: Vec<u32> = self.blocks.iter().flatten().copied().collect();
        here.into_iter().filter(|&block| !is_kept(block)).for_each(|block| self.forget(block));
    }

    /// Forgets a block that no longer exists.
    pub fn forget(&mut self, block: u32) {
        if let Some(slot) = self.slot(block) {
            self.blocks[slot as usize] = None;
            self.slots[block as usize] = NO_SLOT;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_takes_a_free_slot_then_one_that_is_written_back() {
        let mut window = Window::new(2, 10);
        assert_eq!(window.admit(7, |_| true), Some(0));
        assert_eq!(window.admit(3, |_| true), Some(1));
        assert_eq!(window.admit(7, |_| true), Some(0));
        assert_eq!(window.admit(5, |_| false), None);
        assert_eq!(window.admit(5, |block| block == 3), Some(1));
        assert_eq!(window.table(&[3, 5, 7], &[0, 1, 2, 3]), [NO_SLOT, 1, 0]);
        assert_eq!(window.table(&[3, 5, 7], &[2]), [NO_SLOT, NO_SLOT, 0]);
        window.forget(7);
        window.forget(9);
        assert_eq!(window.slot(7), None);
        assert_eq!(window.admit(3, |_| false), Some(0));
        #[cfg(feature = "measure")]
        {
            window.keep(|block| block == 5);
            assert_eq!(window.table(&[3, 5], &[0, 1]), [NO_SLOT, 1]);
        }
    }
}
