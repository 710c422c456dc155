// A gated linear unit (arXiv 2002.05202) in two products: what is there is the gate's, these rows are the up projection's; writes
// activated(gate) * up.
//!include <activation>

fn output4(y_at: u32, row: u32, values: vec4<f32>) {
    let at = y_at + matrix.first_row + row;
    let count = min(4u, matrix.rows - row);
    for (var i = 0u; i < count; i++) {
        y[at + i] = activated(y[at + i]) * values[i];
    }
}
