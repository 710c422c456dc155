// Which tokens a matrix is multiplied with (matmul): those that use the batch's expert. Their entries (a token's slots follow
// one another) are listed for each expert. With INPUT_BY_SLOT every entry has an input of its own, else every token.
@group(0) @binding(6) var<storage, read> lists: array<u32>;

fn token_count(batch: u32) -> u32 {
    return lists[matrix.first_batch + batch];
}

// The matrix's first row in this part.
fn token_rows(batch: u32) -> u32 {
    return batch * matrix.rows;
}

// Lists follow the counts; each has room for every token.
fn token_entry(batch: u32, token: u32) -> u32 {
    return lists[EXPERTS + (matrix.first_batch + batch) * step[H_ROWS] + token];
}

// Where an entry's input begins, in vec4.
fn token_x(batch: u32, token: u32) -> u32 {
    let entry = token_entry(batch, token);
    return select(entry / SLOTS, entry, INPUT_BY_SLOT) * (matrix.x_stride / 4u);
}

fn token_y(batch: u32, token: u32) -> u32 {
    return token_entry(batch, token) * matrix.y_stride;
}
