//! The host cache: keys and values of sealed blocks in plain CPU memory.

use crate::formats::{HeadFormat, KvType};
use crate::{Error, Result};
use rayon::prelude::*;

/// Sealed blocks of every layer. In a block's layer KV heads follow one another, each with its keys and then its values, so
/// that a head-block is one run of bytes.
#[derive(Debug)]
pub struct HostCache {
    blocks: Vec<Block>,
    layers: usize,
    format: HeadFormat,
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
    pub fn new(blocks: u32, layers: u32, format: HeadFormat) -> Self {
        let blocks = (0..blocks).map(|_| Block::default()).collect();
        Self { blocks, layers: layers as usize, format, allocated: 0 }
    }

    /// Whether every layer of a block is here.
    pub fn holds(&self, block: u32) -> bool {
        self.blocks[block as usize].stored == self.layers
    }

    /// Keys and values of one layer of a block that is held, as they are stored.
    pub fn layer(&self, block: u32, layer: usize) -> &[u8] {
        &self.blocks[block as usize].layers[layer]
    }

    /// Keys and values of a block that is held, as f16, layer after layer.
    pub fn read(&self, block: u32, halves: &mut [u8]) {
        let layers = halves.chunks_exact_mut(halves.len() / self.layers);
        for (layer, halves) in layers.enumerate() {
            self.format.load(self.layer(block, layer), halves);
        }
    }

    /// Stores layers of blocks, of which `halves` has one after the other as f16.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when the host has no memory left.
    pub fn store(&mut self, layers: &[(u32, usize)], halves: &[u8]) -> Result<()> {
        let Some(size) = halves.len().checked_div(layers.len()) else { return Ok(()) };
        let format = self.format;
        let mut memory: Vec<Vec<u8>> = layers
            .iter()
            .map(|&(block, layer)| self.blocks[block as usize].take(layer, self.layers))
            .collect();
        let before: usize = memory.iter().map(Vec::len).sum();
        let replace = |(memory, halves): (&mut Vec<u8>, &[u8])| replace(memory, &format, halves);
        match format.kv_type {
            // A copy: there is nothing for threads to compute.
            KvType::F16 => memory.iter_mut().zip(halves.chunks_exact(size)).try_for_each(replace),
            KvType::Q8_0 => {
                memory.par_iter_mut().zip(halves.par_chunks_exact(size)).try_for_each(replace)
            }
        }?;
        let after: usize = memory.iter().map(Vec::len).sum();
        self.allocated = self.allocated + after as u64 - before as u64;
        for (&(block, layer), memory) in layers.iter().zip(memory) {
            let block = &mut self.blocks[block as usize];
            block.layers[layer] = memory;
            block.stored += 1;
        }
        Ok(())
    }

    /// Stores every layer of these blocks, many at a time; `layer` gives a block's and layer's as f16.
    ///
    /// # Errors
    /// As [`HostCache::store`].
    pub fn store_all<'b>(
        &mut self,
        blocks: &[u32],
        layer: impl Fn(u32, usize) -> &'b [u8] + Sync,
    ) -> Result<()> {
        let (layers, format) = (self.layers, self.format);
        let mut wanted = vec![false; self.blocks.len()];
        blocks.iter().for_each(|&block| wanted[block as usize] = true);
        let entries = self.blocks.par_iter_mut().zip(wanted).enumerate();
        let stored = entries.filter(|(_, (_, is_wanted))| *is_wanted).map(|(block, (entry, _))| {
            entry.stored = 0;
            let stored = |number| entry.store(number, layers, &format, layer(block as u32, number));
            (0..layers).map(stored).sum::<Result<i64>>()
        });
        let more = stored.sum::<Result<i64>>()?;
        self.allocated = self.allocated.saturating_add_signed(more);
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
    // The memory of one of so many layers.
    fn take(&mut self, layer: usize, layers: usize) -> Vec<u8> {
        self.layers.resize_with(layers, Vec::new);
        std::mem::take(&mut self.layers[layer])
    }

    /// Stores one of so many layers; how many bytes more of memory that takes.
    fn store(
        &mut self,
        layer: usize,
        layers: usize,
        format: &HeadFormat,
        halves: &[u8],
    ) -> Result<i64> {
        let mut memory = self.take(layer, layers);
        let before = memory.len() as i64;
        replace(&mut memory, format, halves)?;
        let more = memory.len() as i64 - before;
        self.layers[layer] = memory;
        self.stored += 1;
        Ok(more)
    }
}

// Puts one layer of a block in the place of what the memory held.
fn replace(memory: &mut Vec<u8>, format: &HeadFormat, halves: &[u8]) -> Result<()> {
    memory.clear();
    let bytes = format.block_bytes();
    memory.try_reserve_exact(bytes as usize).map_err(|e| Error::OutOfMemory {
        what: "the host cache".into(),
        bytes,
        detail: e.to_string(),
    })?;
    format.store(halves, memory);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(kv_type: KvType) -> HeadFormat {
        HeadFormat::new(kv_type, 2 * 16 * 32, 1)
    }

    #[test]
    fn a_block_is_held_once_all_of_its_layers_are() {
        let layers: Vec<Vec<u8>> = [0x11, 0x22, 0x33].map(|byte| vec![byte; 2048]).into();
        let mut host = HostCache::new(3, 2, format(KvType::F16));
        host.store(&[(1, 1)], &layers[1]).unwrap();
        assert!(!host.holds(1));
        host.store(&[(1, 0)], &layers[0]).unwrap();
        assert!(host.holds(1) && !host.holds(0));
        assert_eq!((host.layer(1, 0), host.layer(1, 1)), (&layers[0][..], &layers[1][..]));
        host.forget(1);
        assert!(!host.holds(1));
        host.store(&[(1, 0)], &layers[2]).unwrap();
        assert!(!host.holds(1));
        assert_eq!(host.bytes(), 2 * 2048);
        host.store_all(&[0, 1], |_, layer| &layers[layer]).unwrap();
        assert!(host.holds(0) && host.holds(1) && !host.holds(2));
        assert_eq!((host.layer(0, 1), host.bytes()), (&layers[1][..], 4 * 2048));
    }

    #[test]
    fn layers_that_come_together_are_stored_each_in_its_place_in_half_the_bytes() {
        let mut host = HostCache::new(3, 2, format(KvType::Q8_0));
        // A group of equal values comes back as it was, by rounding to f16.
        let halves = |value: u8| [0, 0x3c + value].repeat(1024);
        let cargo = [(2, 1), (0, 0), (2, 0), (0, 1)];
        host.store(&cargo, &[0, 1, 2, 3].map(halves).concat()).unwrap();
        assert!(host.holds(0) && host.holds(2) && !host.holds(1));
        let mut back = vec![0; 2 * 2048];
        for (value, (block, layer)) in (0..).zip(cargo) {
            host.read(block, &mut back);
            assert_eq!(back[layer * 2048..][..2048], halves(value), "block {block}, layer {layer}");
            assert_eq!(host.layer(block, layer).len(), 1024 + 64);
        }
        assert_eq!(host.bytes(), 4 * 1088);
        let same = halves(3);
        host.store_all(&[1], |_, _| &same).unwrap();
        assert_eq!((host.layer(1, 0), host.bytes()), (host.layer(0, 1), 6 * 1088));
    }
}
