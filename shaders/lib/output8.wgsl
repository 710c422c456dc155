// Writes eight consecutive rows of one token of a tile, of which some may lie beyond the matrix or the batch.
fn output8(batch: u32, token: u32, row: u32, tokens: u32, low: vec4<f32>, high: vec4<f32>) {
    if token >= tokens {
        return;
    }
    let y_at = token_y(batch, token);
    if row < matrix.rows {
        output4(y_at, row, low);
    }
    if row + 4u < matrix.rows {
        output4(y_at, row + 4u, high);
    }
}
