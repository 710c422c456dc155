// Which matrix a few tokens are multiplied by (matvec): each head's own, for its slice of the
// input and of the output.
//!include lib/batch.wgsl

const IS_SUM: bool = false;

fn batches_of(place: u32) -> vec2<u32> {
    return vec2(place, place + 1u);
}

fn batch_of(token: u32, batch: u32) -> Batch {
    let x_at = token * matrix.x_stride + (matrix.first_batch + batch) * matrix.x_batch;
    return Batch(true, batch * matrix.rows, x_at / 4u, 1.0);
}

fn batch_y(token: u32, place: u32) -> u32 {
    return token * matrix.y_stride + (matrix.first_batch + place) * matrix.y_batch;
}
