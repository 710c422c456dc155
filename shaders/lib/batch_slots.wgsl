// Which matrix a few tokens are multiplied by (matvec): that of each expert of the token, with an output
// for each.
//!include lib/batch.wgsl
//!include lib/expert_slots.wgsl

@group(0) @binding(6) var<storage, read> slots: array<vec2<u32>>;

const IS_SUM: bool = false;

fn batches_of(place: u32) -> vec2<u32> {
    return vec2(place, place + 1u);
}

fn batch_of(token: u32, batch: u32) -> Batch {
    let expert = slot_expert(token, batch) - matrix.first_batch;
    return Batch(expert < matrix.batches, expert * matrix.rows, token * (matrix.x_stride / 4u), 1.0);
}

fn batch_y(token: u32, place: u32) -> u32 {
    return token * matrix.y_stride + place * matrix.y_batch;
}
