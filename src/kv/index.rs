//! The buffers of the index, which is on the GPU wherever keys and values are.

use super::CacheLayout;
use super::memory::{IndexRows, IndexState};
use crate::Result;
use crate::attention::Summary;
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
    /// What is kept of each session.
    pub state: IndexState,
}

impl Index {
    /// Allocates the index of so many layers.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub(crate) async fn new(gpu: &Gpu, layers: u32, rows: &IndexRows) -> Result<Self> {
        let mut index = Self { layers: Vec::new() };
        for _ in 0..layers {
            index.layers.push(LayerIndex::new(gpu, rows).await?);
        }
        Ok(index)
    }
}

impl LayerIndex {
    async fn new(gpu: &Gpu, rows: &IndexRows) -> Result<Self> {
        let mut summaries = Vec::new();
        for (summary, rows) in &rows.summaries {
            summaries.push((*summary, rows.allocate(gpu).await?));
        }
        Ok(Self {
            layout: rows.codes.layout,
            codes: rows.codes.allocate(gpu).await?,
            summaries,
            state: rows.state.allocate(gpu).await?,
        })
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
