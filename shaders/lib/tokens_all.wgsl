// Which tokens a matrix is multiplied with (matmul): all of the step.
fn token_count(batch: u32) -> u32 {
    return step[H_ROWS];
}

// The matrix's first row in this part.
fn token_rows(batch: u32) -> u32 {
    return 0u;
}

// Where a token's input begins, in vec4.
fn token_x(batch: u32, token: u32) -> u32 {
    return token * (matrix.x_stride / 4u);
}

fn token_y(batch: u32, token: u32) -> u32 {
    return token * matrix.y_stride;
}
