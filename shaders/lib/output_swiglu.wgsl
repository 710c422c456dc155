// SwiGLU (arXiv 2002.05202) of interleaved rows: row 2i is the gate's row i, row 2i + 1 the up projection's; writes
// silu(gate) * up. A part begins at an even row.
fn silu(v: f32) -> f32 {
    return v / (1.0 + exp(-v));
}

fn output4(y_at: u32, row: u32, values: vec4<f32>) {
    let at = y_at + (matrix.first_row + row) / 2u;
    y[at] = silu(values.x) * values.y;
    if row + 2u < matrix.rows {
        y[at + 1u] = silu(values.z) * values.w;
    }
}
