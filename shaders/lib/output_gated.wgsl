// SwiGLU (arXiv 2002.05202) in two products: what is there is the gate's, these rows are the up projection's; writes
// silu(gate) * up.
fn output4(y_at: u32, row: u32, values: vec4<f32>) {
    let at = y_at + matrix.first_row + row;
    let count = min(4u, matrix.rows - row);
    for (var i = 0u; i < count; i++) {
        let gate = y[at + i];
        y[at + i] = gate / (1.0 + exp(-gate)) * values[i];
    }
}
