//! The buffers of the cache: per layer, segments below the binding limit. Segment s of every layer holds the same blocks.

use super::memory::SegmentRows;
use crate::Result;
use crate::attention::Shape;
use crate::gpu::Gpu;
use crate::kernels::SegmentParams;

/// How physical blocks are spread over segments. Pure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLayout {
    /// Physical blocks in all.
    pub blocks: u32,
    /// Blocks in each segment but the last, which may have fewer.
    pub segment_blocks: u32,
    /// Segments.
    pub segments: u32,
}

impl CacheLayout {
    /// The layout of `blocks` blocks of `block_bytes` bytes when a binding holds `max_binding` bytes.
    pub fn new(block_bytes: u64, blocks: u32, max_binding: u64) -> Self {
        let fit = (max_binding / block_bytes.max(1)).clamp(1, u64::from(u32::MAX)) as u32;
        let segment_blocks = fit.min(blocks.max(1));
        Self { blocks, segment_blocks, segments: blocks.max(1).div_ceil(segment_blocks) }
    }

    /// The contents of a segment.
    pub fn segment(&self, index: u32) -> SegmentParams {
        let first = index * self.segment_blocks;
        let blocks = self.segment_blocks.min(self.blocks.saturating_sub(first));
        SegmentParams::paged(first, blocks, index, self.segments)
    }

    /// The segment of a physical block and its place there.
    pub fn place(&self, block: u32) -> (u32, u32) {
        (block / self.segment_blocks, block % self.segment_blocks)
    }
}

/// The keys and values that are on the GPU: of every layer, segment by segment.
pub struct KvCache {
    /// How blocks are spread over segments.
    pub layout: CacheLayout,
    layers: Vec<Vec<wgpu::Buffer>>,
    block_bytes: u64,
}

impl KvCache {
    /// Allocates the cache of so many layers.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub(crate) async fn new(
        gpu: &Gpu,
        shape: &Shape,
        layers: u32,
        rows: &SegmentRows,
    ) -> Result<Self> {
        let block_bytes = shape.block_bytes();
        let mut cache = Self { layout: rows.layout, layers: Vec::new(), block_bytes };
        for _ in 0..layers {
            cache.layers.push(rows.allocate(gpu).await?);
        }
        Ok(cache)
    }

    /// The segments of each layer.
    pub fn layers(&self) -> &[Vec<wgpu::Buffer>] {
        &self.layers
    }

    /// Where a block of a layer is: its segment, and the byte there.
    pub fn place(&self, layer: usize, block: u32) -> (&wgpu::Buffer, u64) {
        let (segment, place) = self.layout.place(block);
        (&self.layers[layer][segment as usize], u64::from(place) * self.block_bytes)
    }

    /// Records the copy of a block, in every layer. Its index is not copied: only open blocks are, and they have none. The
    /// copy goes by way of `moving`, since both blocks may lie in one buffer.
    pub fn copy_block(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        moving: &wgpu::Buffer,
        (from, to): (u32, u32),
    ) {
        for layer in 0..self.layers.len() {
            let ((from, read), (to, write)) = (self.place(layer, from), self.place(layer, to));
            encoder.copy_buffer_to_buffer(from, read, moving, 0, self.block_bytes);
            encoder.copy_buffer_to_buffer(moving, 0, to, write, self.block_bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_stay_below_the_binding_limit_and_cover_every_block() {
        let shape = Shape::new(8, 4, 128, false);
        for blocks in [1, 511, 512, 513, 1500] {
            let layout = CacheLayout::new(shape.block_bytes(), blocks, 128 << 20);
            let mut covered = 0;
            for index in 0..layout.segments {
                let segment = layout.segment(index);
                assert_eq!(segment.first, covered);
                assert!(
                    segment.blocks > 0
                        && u64::from(segment.blocks) * shape.block_bytes() <= 128 << 20
                );
                covered += segment.blocks;
            }
            assert_eq!(covered, blocks);
        }
    }
}
