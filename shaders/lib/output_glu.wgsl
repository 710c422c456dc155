// A gated linear unit (arXiv 2002.05202) of interleaved rows: row 2i is the gate's row i, row 2i + 1 the up projection's; writes
// activated(gate) * up. A part begins at an even row.
//!include <activation>

fn output4(y_at: u32, row: u32, values: vec4<f32>) {
    let at = y_at + (matrix.first_row + row) / 2u;
    y[at] = activated(values.x) * values.y;
    if row + 2u < matrix.rows {
        y[at + 1u] = activated(values.z) * values.w;
    }
}
