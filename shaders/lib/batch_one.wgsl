// Which matrix a few tokens are multiplied by (matvec): one for all.
//!include lib/batch.wgsl

const IS_SUM: bool = false;

fn batches_of(place: u32) -> vec2<u32> {
    return vec2(0u, 1u);
}

fn batch_of(token: u32, batch: u32) -> Batch {
    return Batch(true, 0u, token * (matrix.x_stride / 4u), 1.0);
}

fn batch_y(token: u32, place: u32) -> u32 {
    return token * matrix.y_stride;
}
