//! How blocks are carried to the hot cache within a step: what is recorded, and when it is submitted.

use super::HotTurn;
use crate::Result;
use crate::kv::{Items, Upload};

impl HotTurn<'_> {
    /// Submits what was recorded and begins anew.
    pub(super) fn submit(&mut self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        let index = self.submit_uploads(encoder)?;
        self.state.selections.submitted(&index);
        Ok(())
    }

    /// As [`HotTurn::submit`], while a choice's way back is recorded elsewhere and not submitted yet.
    pub(super) fn submit_uploads(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
    ) -> Result<wgpu::SubmissionIndex> {
        let next = self.engine.gpu.device.create_command_encoder(&Default::default());
        let index = self.engine.gpu.submit(std::mem::replace(encoder, next))?;
        self.state.offload.submitted(&index);
        Ok(index)
    }

    /// Submits what was recorded, with a slot of the ring that is still to be filled, and then `rest`; begins anew.
    pub(super) fn submit_with(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        unfilled: Option<Upload>,
        rest: wgpu::CommandBuffer,
    ) -> Result<()> {
        let next = self.engine.gpu.device.create_command_encoder(&Default::default());
        let recorded = std::mem::replace(encoder, next);
        let first = match unfilled {
            None => recorded.finish(),
            Some(upload) => self.state.offload.fill(&upload, false, || recorded.finish())?,
        };
        let index = self.engine.gpu.submit_all([first, rest])?;
        self.state.offload.submitted(&index);
        self.state.selections.submitted(&index);
        Ok(())
    }

    /// Records an upload: its copy, and what places its head-blocks.
    pub(super) fn record_upload(&mut self, encoder: &mut wgpu::CommandEncoder, upload: &Upload) {
        self.record_arrival(encoder, upload);
        let mut pass = self.engine.gpu.pass(encoder, "place", upload.first_layer());
        self.record_place(&mut pass, upload);
    }

    /// Records an upload's copy.
    pub(super) fn record_arrival(&mut self, encoder: &mut wgpu::CommandEncoder, upload: &Upload) {
        self.engine.gpu.timed(encoder, "arrive", upload.first_layer(), |encoder| {
            self.state.offload.uploads.record_arrival(encoder, upload);
        });
    }

    /// Records what places an upload's head-blocks once it has arrived.
    pub(super) fn record_place(&self, pass: &mut wgpu::ComputePass<'_>, upload: &Upload) {
        for (layer, items) in &upload.parts {
            self.ops.layers[*layer].place(pass, items.len() as u32);
        }
    }

    /// Records the arrival of an upload's whole blocks, as f16.
    pub(super) fn record_whole(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        upload: &Upload,
        blocks: usize,
    ) {
        self.state.offload.uploads.record_arrival(encoder, upload);
        if let Some(unpack) = &self.ops.unpack {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            unpack.record(&mut pass, self.engine.shape.kv_heads, blocks as u32, 1);
        }
    }

    /// Records everything that is on its way for a group, and waits for the rest of it.
    pub(super) async fn record_group(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        group: usize,
    ) -> Result<()> {
        for upload in std::mem::take(&mut self.state.groups[group].uploads) {
            self.record_upload(encoder, &upload);
        }
        let mut items = std::mem::take(&mut self.state.groups[group].items);
        // Behind the first group the GPU has the layers before to do.
        self.record_items(encoder, &mut items, group > 0).await
    }

    /// Gathers head-blocks and records their placement, slot after slot.
    pub(super) async fn record_items(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        items: &mut Vec<Items>,
        is_hidden: bool,
    ) -> Result<()> {
        while let Some(upload) = self.load_next(encoder, items).await? {
            self.record_upload(encoder, &upload);
            self.state.offload.fill(&upload, is_hidden, || ())?;
        }
        Ok(())
    }

    /// A slot of the ring for as many head-blocks as it holds: what was recorded is submitted where all slots wait for that.
    pub(super) async fn load_next(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        items: &mut Vec<Items>,
    ) -> Result<Option<Upload>> {
        while !items.is_empty() {
            if let Some(upload) =
                self.state.offload.uploads.load(Some(&self.engine.gpu), items).await?
            {
                return Ok(Some(upload));
            }
            self.submit_uploads(encoder)?;
        }
        Ok(None)
    }
}
