//! The buffers that steps over a hot cache work in, besides the scratch.

use crate::Result;
use crate::engine::EngineOptions;
use crate::engine::residency::BlockLists;
use crate::engine::scratch::HostSizes;
use crate::gpu::Gpu;
use crate::kernels::SegmentParams;
use crate::kv::HostOptions;
use crate::model::ModelConfig;

pub(in crate::engine) struct HotBuffers {
    /// The step with the slots of the window as tables: what decode appends by.
    pub(in crate::engine) append_step: wgpu::Buffer,
    /// The step with block tables that name each logical block: what a prompt goes by.
    pub(in crate::engine) tables: wgpu::Buffer,
    /// Keys and values of one layer of a chunk of a prompt.
    pub(in crate::engine) chunk: wgpu::Buffer,
    /// The logical blocks that the chunk holds.
    pub(in crate::engine) chunk_segment: wgpu::Buffer,
    /// The logical blocks that arrived, where the chunk's attention goes over them.
    pub(in crate::engine) arrived_segment: wgpu::Buffer,
    /// Blocks that level 1 chose.
    pub(in crate::engine) wanted: BlockLists,
    /// Candidates of level 2 that are not those.
    pub(in crate::engine) listed: BlockLists,
}

impl HotBuffers {
    pub(super) async fn new(
        gpu: &Gpu,
        config: &ModelConfig,
        options: &EngineOptions,
        host: &HostOptions,
    ) -> Result<Self> {
        let sizes = HostSizes::new(config, options, host);
        let (step, stride, layers) = (sizes.step, sizes.list_stride, config.layers);
        let nothing = SegmentParams::in_order(0, 0, 0, 2);
        Ok(Self {
            append_step: gpu.storage("the step of what is appended", step).await?,
            tables: gpu.storage("the step of a chunk", step).await?,
            chunk: gpu.storage("a chunk's keys and values", sizes.chunk).await?,
            chunk_segment: gpu.uniform("the blocks of a chunk", nothing).await?,
            arrived_segment: gpu.uniform("the blocks that arrived", nothing).await?,
            wanted: BlockLists::new(gpu, "blocks that are wanted", stride, layers).await?,
            listed: BlockLists::new(gpu, "blocks that are listed", stride, layers).await?,
        })
    }
}
