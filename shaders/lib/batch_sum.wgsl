// Which matrix a few tokens are multiplied by (matvec): those of all experts of the token, weighed and summed in the
// order of their slots.
//!include lib/batch.wgsl
//!include lib/expert_slots.wgsl

@group(0) @binding(6) var<storage, read> slots: array<vec2<u32>>;

const IS_SUM: bool = true;

fn batches_of(place: u32) -> vec2<u32> {
    return vec2(0u, SLOTS);
}

fn batch_of(token: u32, batch: u32) -> Batch {
    let expert = slot_expert(token, batch) - matrix.first_batch;
    let x_at = token * matrix.x_stride + batch * matrix.x_batch;
    return Batch(expert < matrix.batches, expert * matrix.rows, x_at / 4u, slot_weight(token, batch));
}

fn batch_y(token: u32, place: u32) -> u32 {
    return token * matrix.y_stride;
}
