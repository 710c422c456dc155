//! The buffers of the cache: per layer, segments below the binding limit, those of keys and values and those of the index.
//! Segment s of every layer holds the same physical blocks.

use super::memory::{CacheRows, IndexState};
use crate::Result;
use crate::attention::Summary;
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

/// The cache of one layer.
pub struct LayerCache {
    /// Keys and values of each segment.
    pub kv: Vec<wgpu::Buffer>,
    /// The index of each segment; empty when there is none.
    pub codes: Vec<wgpu::Buffer>,
    /// Each summary of blocks that is kept, segment by segment.
    pub summaries: Vec<(&'static Summary, Vec<wgpu::Buffer>)>,
    /// Of a hot cache: where each block is, as `shaders/lib/hot_slots.wgsl` has it.
    pub slots: Option<wgpu::Buffer>,
    /// Of an index: what it keeps of each session.
    pub(crate) state: Option<IndexState>,
}

impl LayerCache {
    /// Allocates a layer's cache.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub(crate) async fn new(gpu: &Gpu, rows: &CacheRows) -> Result<Self> {
        let mut cache = Self {
            kv: Vec::new(),
            codes: Vec::new(),
            summaries: Vec::new(),
            slots: None,
            state: None,
        };
        for index in 0..rows.kv.layout.segments {
            cache.kv.push(gpu.allocate(rows.kv.row(index)).await?);
        }
        if let Some(slots) = &rows.slots {
            cache.slots = Some(gpu.allocate(slots).await?);
        }
        let Some(index) = &rows.index else { return Ok(cache) };
        cache.summaries =
            index.summaries.iter().map(|&(summary, _)| (summary, Vec::new())).collect();
        for segment in 0..index.codes.layout.segments {
            cache.codes.push(gpu.allocate(index.codes.row(segment)).await?);
            for ((_, segments), (_, rows)) in cache.summaries.iter_mut().zip(&index.summaries) {
                segments.push(gpu.allocate(rows.row(segment)).await?);
            }
        }
        cache.state = Some(index.state.allocate(gpu).await?);
        Ok(cache)
    }

    /// The segments of this summary of blocks; none where it is not kept.
    pub fn summary(&self, summary: &Summary) -> &[wgpu::Buffer] {
        let kept = self.summaries.iter().find(|(kept, _)| *kept == summary);
        kept.map_or(&[], |(_, segments)| segments)
    }

    /// Every buffer of the index.
    pub fn index_buffers(&self) -> impl Iterator<Item = &wgpu::Buffer> {
        self.codes.iter().chain(self.summaries.iter().flat_map(|(_, segments)| segments))
    }

    /// Records the copy of a block's keys and values. Its index is not copied: only open blocks are, and they have none.
    /// The copy goes by way of `moving`, since both blocks may lie in one buffer.
    pub fn copy_block(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        layout: &CacheLayout,
        moving: &wgpu::Buffer,
        bytes: u64,
        (from, to): (u32, u32),
    ) {
        let (from_segment, from) = layout.place(from);
        let (to_segment, to) = layout.place(to);
        encoder.copy_buffer_to_buffer(
            &self.kv[from_segment as usize],
            u64::from(from) * bytes,
            moving,
            0,
            bytes,
        );
        encoder.copy_buffer_to_buffer(
            moving,
            0,
            &self.kv[to_segment as usize],
            u64::from(to) * bytes,
            bytes,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::Shape;

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
