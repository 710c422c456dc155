//! The host cache: keys and values of closed blocks in plain CPU memory.

use crate::{Error, Result};
use rayon::prelude::*;

/// Closed blocks of every layer. In a block's layer KV heads follow one another, each with its keys and then its values, so
/// that a head-block is one run of bytes.
#[derive(Debug)]
pub struct HostCache {
    blocks: Vec<Block>,
    layers: usize,
    allocated: u64,
}

#[derive(Debug, Default)]
struct Block {
    /// A layer's is empty until it is first stored: its memory is touched once, and not that of all layers with the first.
    /// Kept when the block is forgotten, for the next that has its number.
    layers: Vec<Vec<u8>>,
    /// Layers that have been stored.
    stored: usize,
}

impl HostCache {
    /// Room for `blocks` blocks of `layers` layers; memory is taken when they are stored.
    pub fn new(blocks: u32, layers: u32) -> Self {
        let blocks = (0..blocks).map(|_| Block::default()).collect();
        Self { blocks, layers: layers as usize, allocated: 0 }
    }

    /// Whether every layer of a block is here.
    pub fn holds(&self, block: u32) -> bool {
        self.blocks[block as usize].stored == self.layers
    }

    /// Keys and values of one layer of a block that is held.
    pub fn layer(&self, block: u32, layer: usize) -> &[u8] {
        &self.blocks[block as usize].layers[layer]
    }

    /// Stores one layer of a block.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when the host has no memory left.
    pub fn store(&mut self, block: u32, layer: usize, bytes: &[u8]) -> Result<()> {
        let entry = &mut self.blocks[block as usize];
        self.allocated += entry.store(layer, self.layers, bytes)?;
        Ok(())
    }

    /// Stores every layer of these blocks, many at a time; `layer` gives the bytes of a block and layer.
    ///
    /// # Errors
    /// As [`HostCache::store`].
    pub fn store_all<'b>(
        &mut self,
        blocks: &[u32],
        layer: impl Fn(u32, usize) -> &'b [u8] + Sync,
    ) -> Result<()> {
        let layers = self.layers;
        let mut wanted = vec![false; self.blocks.len()];
        blocks.iter().for_each(|&block| wanted[block as usize] = true);
        let entries = self.blocks.par_iter_mut().zip(wanted).enumerate();
        let stored = entries.filter(|(_, (_, is_wanted))| *is_wanted).map(|(block, (entry, _))| {
            entry.stored = 0;
            let stored = |number| entry.store(number, layers, layer(block as u32, number));
            (0..layers).map(stored).sum::<Result<u64>>()
        });
        self.allocated += stored.sum::<Result<u64>>()?;
        Ok(())
    }

    /// Forgets what a block held.
    pub fn forget(&mut self, block: u32) {
        self.blocks[block as usize].stored = 0;
    }

    /// Bytes of CPU memory in use.
    pub fn bytes(&self) -> u64 {
        self.allocated
    }
}

impl Block {
    /// Stores one of so many layers; how many bytes more of memory that takes.
    fn store(&mut self, layer: usize, layers: usize, bytes: &[u8]) -> Result<u64> {
        self.layers.resize_with(layers, Vec::new);
        let memory = &mut self.layers[layer];
        let before = memory.len();
        memory.clear();
        memory.try_reserve_exact(bytes.len()).map_err(|e| Error::OutOfMemory {
            what: "the host cache".into(),
            bytes: bytes.len() as u64,
            detail: e.to_string(),
        })?;
        memory.extend_from_slice(bytes);
        self.stored += 1;
        Ok((bytes.len() - before) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_held_once_all_of_its_layers_are() {
        let mut host = HostCache::new(3, 2);
        host.store(1, 1, &[5, 6, 7, 8]).unwrap();
        assert!(!host.holds(1));
        host.store(1, 0, &[1, 2, 3, 4]).unwrap();
        assert!(host.holds(1) && !host.holds(0));
        assert_eq!((host.layer(1, 0), host.layer(1, 1)), (&[1, 2, 3, 4][..], &[5, 6, 7, 8][..]));
        host.forget(1);
        assert!(!host.holds(1));
        host.store(1, 0, &[9; 4]).unwrap();
        assert!(!host.holds(1));
        assert_eq!(host.bytes(), 8);
        let layers = [[1, 2, 3, 4], [5, 6, 7, 8]];
        host.store_all(&[0, 1], |_, layer| &layers[layer]).unwrap();
        assert!(host.holds(0) && host.holds(1) && !host.holds(2));
        assert_eq!((host.layer(0, 1), host.bytes()), (&[5, 6, 7, 8][..], 16));
    }
}
