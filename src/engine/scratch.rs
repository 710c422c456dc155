//! Buffers that every layer uses in turn, sized once.

use super::memory::ScratchRows;
use crate::Result;
use crate::contract::StepHeader;
use crate::gpu::{Binding, Gpu, buffers};
use crate::kernels::SegmentParams;
use crate::kv::Offload;
use crate::memory::Row;
use crate::model::ModelConfig;
use std::ops::Deref;

/// Strides, in floats, padded to whole units of weights.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strides {
    pub(super) hidden: u32,
    pub(super) ffn: u32,
    pub(super) attention: u32,
    /// Of one expert.
    pub(super) expert: u32,
    pub(super) router: u32,
}

impl Strides {
    pub(super) fn new(config: &ModelConfig) -> Self {
        let padded = |width: u32| width.next_multiple_of(32);
        let experts = config.experts.as_ref();
        Self {
            hidden: padded(config.hidden),
            ffn: padded(config.ffn),
            attention: padded(config.attended()),
            expert: experts.map_or(0, |experts| padded(experts.ffn)),
            router: experts.map_or(0, |experts| padded(experts.count)),
        }
    }
}

buffers! {
    /// What every engine has.
    pub(super) struct CommonScratch {
        step,
        /// The residual stream.
        x,
        normed,
        /// Queries and what is cached, as decode attention and the index read them.
        rows,
        attended,
        ffn,
        /// Inputs of one product as f16, where products are of those.
        halves,
        states,
        partial_o,
        partial_ml,
        logits,
        winners,
        scores,
        keys,
        chosen_blocks,
        chosen_tokens,
        /// The way station of copies within one buffer: WebGPU refuses to copy a buffer onto itself.
        moving,
        staging,
    }

    /// The further scratch of a cache whose blocks live in CPU memory.
    pub(super) struct HostBuffers {
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
    }

    /// The further scratch of latent attention.
    pub(super) struct LatentBuffers {
        /// Hidden states projected down: latents and the shared key.
        down,
        q_latents,
        /// Queries of all heads, before absorption.
        queries,
        /// Attended latents of decode rows.
        merged,
        /// A step of a slab's tokens.
        slab_step,
        /// The step with the block tables of slabs: each logical block is where it is.
        slab_tables,
        slab_latents,
        slab_shared,
        slab_made,
        slab_kv,
    }

    /// The further scratch of a mixture of experts.
    pub(super) struct ExpertScratch {
        logits,
        slots,
        lists,
        /// The output of each entry's expert.
        made,
    }
}

pub(super) struct Scratch {
    common: CommonScratch,
    pub(super) latent: Option<LatentScratch>,
    pub(super) experts: Option<ExpertScratch>,
    pub(super) host: Option<HostScratch>,
    /// Of a replay with the whole cache on the GPU: what each layer attends, and the bytes from a layer's lists to the next.
    pub(super) steered: Option<(wgpu::Buffer, u64)>,
    is_steered: bool,
}

pub(super) struct HostScratch {
    own: HostBuffers,
    /// The logical blocks that the chunk holds.
    pub(super) chunk_segment: wgpu::Buffer,
    /// An upload's blocks, as they are stored.
    pub(super) uploaded: wgpu::Buffer,
    /// Whole blocks of that, as f16.
    pub(super) arrived: wgpu::Buffer,
    /// The logical blocks that arrived, where the chunk's attention goes over them.
    pub(super) arrived_segment: wgpu::Buffer,
    /// Bytes from a layer's list to the next.
    pub(super) list_stride: u64,
}

pub(super) struct LatentScratch {
    own: LatentBuffers,
    /// Tokens of a slab, of which prefill makes keys and values at a time.
    pub(super) slab_tokens: u32,
}

impl Deref for Scratch {
    type Target = CommonScratch;

    fn deref(&self) -> &CommonScratch {
        &self.common
    }
}

impl Deref for HostScratch {
    type Target = HostBuffers;

    fn deref(&self) -> &HostBuffers {
        &self.own
    }
}

impl Deref for LatentScratch {
    type Target = LatentBuffers;

    fn deref(&self) -> &LatentBuffers {
        &self.own
    }
}

impl Scratch {
    pub(super) async fn new(
        gpu: &Gpu,
        rows: &ScratchRows,
        offload: Option<&Offload>,
    ) -> Result<Self> {
        Ok(Self {
            common: rows.common.allocate(gpu).await?,
            latent: match &rows.latent {
                None => None,
                Some((rows, slab_tokens)) => {
                    Some(LatentScratch::new(gpu, rows, *slab_tokens).await?)
                }
            },
            experts: match &rows.experts {
                None => None,
                Some(rows) => Some(rows.allocate(gpu).await?),
            },
            host: match (&rows.host, offload) {
                (Some((rows, list_stride)), Some(offload)) => {
                    Some(HostScratch::new(gpu, rows, *list_stride, offload).await?)
                }
                _ => None,
            },
            steered: match &rows.steered {
                None => None,
                Some((row, stride)) => Some((gpu.allocate(row).await?, *stride)),
            },
            is_steered: rows.is_steered,
        })
    }

    /// The step that rows are appended to the cache by.
    pub(super) fn append_step(&self) -> &wgpu::Buffer {
        self.host.as_ref().map_or(&self.step, |host| &host.append_step)
    }

    /// Where a layer's candidates of level 2 are listed: by level 1, and over a hot cache by the host.
    pub(super) fn lists(&self, layer: usize) -> Vec<Binding<'_>> {
        let Some(host) = &self.host else {
            let steered = self
                .steered
                .as_ref()
                .map(|(lists, stride)| Binding::range(lists, layer as u64 * stride, *stride));
            return vec![steered.unwrap_or_else(|| Binding::from(&self.chosen_blocks))];
        };
        let at = layer as u64 * host.list_stride;
        [&host.wanted, &host.listed]
            .map(|buffer| Binding::range(buffer, at, host.list_stride))
            .to_vec()
    }

    /// Where level 1 writes a layer's blocks: to the list that level 2 reads, or in a replay where nobody does.
    pub(super) fn chosen(&self, layer: usize) -> Binding<'_> {
        if self.is_steered {
            return Binding::from(&self.chosen_blocks);
        }
        self.lists(layer).swap_remove(0)
    }

    /// The output that the states of decode attention are merged into.
    pub(super) fn merged(&self) -> &wgpu::Buffer {
        self.latent.as_ref().map_or(&self.attended, |latent| &latent.merged)
    }
}

impl HostScratch {
    async fn new(
        gpu: &Gpu,
        rows: &HostBuffers<Row>,
        list_stride: u64,
        offload: &Offload,
    ) -> Result<Self> {
        let nothing = SegmentParams::in_order(0, 0, 0, 2);
        Ok(Self {
            own: rows.allocate(gpu).await?,
            chunk_segment: gpu.uniform("the blocks of a chunk", nothing).await?,
            uploaded: offload.uploaded().clone(),
            arrived: offload.arrived.clone(),
            arrived_segment: gpu.uniform("the blocks that arrived", nothing).await?,
            list_stride,
        })
    }
}

impl LatentScratch {
    async fn new(gpu: &Gpu, rows: &LatentBuffers<Row>, slab_tokens: u32) -> Result<Self> {
        let own = rows.allocate(gpu).await?;
        let header = StepHeader { rows: slab_tokens, ..StepHeader::default() };
        gpu.write(&own.slab_step, 0, bytemuck::bytes_of(&header));
        Ok(Self { own, slab_tokens })
    }
}
