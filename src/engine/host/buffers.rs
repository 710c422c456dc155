//! The buffers that steps over a hot cache work in, besides the scratch.

use crate::Result;
use crate::engine::cache::BlockLists;
use crate::engine::memory::HotRows;
use crate::gpu::{Gpu, buffers};
use crate::kernels::SegmentParams;

buffers! {
    /// Those of the memory plan.
    pub(in crate::engine) struct HostBuffers {
        /// The step with the slots of the window as tables: what decode appends by.
        append_step,
        /// The step with block tables that name each logical block: what a prompt goes by.
        tables,
        /// Keys and values of one layer of a chunk of a prompt.
        chunk,
        /// Blocks that level 1 chose, layer by layer.
        wanted,
        /// Candidates of level 2 that are not those, layer by layer.
        listed,
        /// The shares of mass that rows miss by that, layer by layer.
        missed,
    }
}

/// And parameters of segments, which change from step to step.
pub(in crate::engine) struct HotBuffers {
    pub(in crate::engine) append_step: wgpu::Buffer,
    pub(in crate::engine) tables: wgpu::Buffer,
    pub(in crate::engine) chunk: wgpu::Buffer,
    /// The logical blocks that the chunk holds.
    pub(in crate::engine) chunk_segment: wgpu::Buffer,
    /// The logical blocks that arrived, where the chunk's attention goes over them.
    pub(in crate::engine) arrived_segment: wgpu::Buffer,
    pub(in crate::engine) wanted: BlockLists,
    pub(in crate::engine) listed: BlockLists,
    pub(in crate::engine) missed: BlockLists,
}

impl HotBuffers {
    pub(super) async fn new(gpu: &Gpu, rows: &HotRows) -> Result<Self> {
        let HostBuffers { append_step, tables, chunk, wanted, listed, missed } =
            rows.buffers.allocate(gpu).await?;
        let (stride, share_stride) = (rows.list_stride, rows.share_stride);
        let nothing = SegmentParams::in_order(0, 0, 0, 2);
        Ok(Self {
            append_step,
            tables,
            chunk,
            chunk_segment: gpu.uniform("the blocks of a chunk", nothing).await?,
            arrived_segment: gpu.uniform("the blocks that arrived", nothing).await?,
            wanted: BlockLists { buffer: wanted, stride },
            listed: BlockLists { buffer: listed, stride },
            missed: BlockLists { buffer: missed, stride: share_stride },
        })
    }
}
