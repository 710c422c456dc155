// Writes eight consecutive rows of one token of a tile, of which some may lie beyond the matrix or the batch.
fn output8(token: u32, row: u32, tokens: u32, low: vec4<f32>, high: vec4<f32>) {
    if token >= tokens {
        return;
    }
    if row < matrix.rows {
        output4(token, row, low);
    }
    if row + 4u < matrix.rows {
        output4(token, row + 4u, high);
    }
}
