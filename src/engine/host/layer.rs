//! What a layer records over a hot cache besides its stages.

use crate::engine::layer::Layer;
use crate::engine::ops::{GatherOps, HotOps, PieceOps, SlabOps};
use crate::engine::record::Plan;

impl Layer<HotOps> {
    /// Records dense attention of a prompt's chunk over a piece of what came before, once that has arrived.
    pub(super) fn attend_piece(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        plan: &Plan<'_>,
        pieces: &PieceOps,
    ) {
        pieces.arrived.record(pass, self.shape.q_heads(), plan.step.prompt_tiles, 1);
    }

    /// Records, in the place of [`Stage::Merge`](crate::engine::layer::Stage::Merge), attention over what arrived after
    /// [`Stage::Attend`](crate::engine::layer::Stage::Attend), and what both come to.
    pub(super) fn merge_arrived(&self, pass: &mut wgpu::ComputePass<'_>, plan: &Plan<'_>) {
        if let Some(index) = &self.kv.index {
            self.split(pass, &index.arrived_split, &plan.step, plan.step.selecting);
            self.merge(pass, plan, &index.merge_arrived);
        }
    }

    /// Records what places head-blocks of this layer that have arrived.
    pub(super) fn place(&self, pass: &mut wgpu::ComputePass<'_>, head_blocks: u32) {
        for place in &self.kv.place {
            place.record(pass, head_blocks, 1, 1);
        }
    }
}

impl GatherOps {
    /// Records latent attention of a prompt's chunk over a slab, of which a part arrived, or a part lies in the chunk.
    pub(super) fn attend(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        slabs: &SlabOps,
        slab: usize,
        (arrived, of_chunk): (bool, bool),
        tiles: u32,
    ) {
        let arrived = arrived.then(|| &self.arrived[slab]);
        let of_chunk = of_chunk.then(|| &self.chunk[slab]);
        slabs.record(pass, slab, arrived.into_iter().chain(of_chunk), tiles);
    }
}
