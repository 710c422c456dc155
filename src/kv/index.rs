//! The buffers of the index, which is on the GPU wherever keys and values are.

use super::CacheLayout;
use crate::Result;
use crate::attention::{Shape, Summary};
use crate::gpu::Gpu;

/// The index of every layer.
pub struct Index {
    /// Layer by layer.
    pub layers: Vec<LayerIndex>,
}

/// The index of one layer.
pub struct LayerIndex {
    /// How blocks are spread over segments: as in every layer.
    pub layout: CacheLayout,
    /// The codes of each segment.
    pub codes: Vec<wgpu::Buffer>,
    /// Each summary of blocks that is kept, segment by segment.
    pub summaries: Vec<(&'static Summary, Vec<wgpu::Buffer>)>,
    /// By session slot: the running extremes that channels are chosen by.
    pub stats: wgpu::Buffer,
    /// By session slot: the channels.
    pub channels: wgpu::Buffer,
}

impl Index {
    /// Allocates the index of so many layers, blocks and sessions, with these summaries of blocks.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub async fn new(
        gpu: &Gpu,
        shape: &Shape,
        (layers, blocks, sessions): (u32, u32, u32),
        summaries: &[&'static Summary],
    ) -> Result<Self> {
        let of_summaries = summaries.iter().map(|summary| summary.block_bytes(shape));
        let bytes = of_summaries.fold(shape.block_code_bytes(), u64::max);
        let layout = CacheLayout::new(bytes, blocks, gpu.max_binding());
        let mut index = Self { layers: Vec::new() };
        for _ in 0..layers {
            index.layers.push(LayerIndex::new(gpu, shape, layout, sessions, summaries).await?);
        }
        Ok(index)
    }
}

impl LayerIndex {
    async fn new(
        gpu: &Gpu,
        shape: &Shape,
        layout: CacheLayout,
        sessions: u32,
        summaries: &[&'static Summary],
    ) -> Result<Self> {
        let slots = u64::from(sessions);
        let mut index = Self {
            layout,
            codes: Vec::new(),
            summaries: summaries.iter().map(|&summary| (summary, Vec::new())).collect(),
            stats: gpu.storage("channel statistics", slots * shape.stats_len() * 4).await?,
            channels: gpu.storage("index channels", slots * shape.channels_len() * 4).await?,
        };
        for segment in layout.all() {
            let blocks = u64::from(segment.blocks);
            index.codes.push(gpu.storage("the index", blocks * shape.block_code_bytes()).await?);
            for (summary, segments) in &mut index.summaries {
                let bytes = blocks * summary.block_bytes(shape);
                let what = format!("the block {}", summary.name);
                segments.push(gpu.storage(&what, bytes).await?);
            }
        }
        Ok(index)
    }

    /// The segments of this summary of blocks; none where it is not kept.
    pub fn summary(&self, summary: &Summary) -> &[wgpu::Buffer] {
        let kept = self.summaries.iter().find(|(kept, _)| *kept == summary);
        kept.map_or(&[], |(_, segments)| segments)
    }

    /// Every buffer of what is kept of blocks.
    pub fn buffers(&self) -> impl Iterator<Item = &wgpu::Buffer> {
        self.codes.iter().chain(self.summaries.iter().flat_map(|(_, segments)| segments))
    }
}
