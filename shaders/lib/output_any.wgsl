// What most products do with their results. Products of few tokens are told by `matrix`, so that those of one shape of workgroup are one
// pipeline; for others it is a word of the text.
//
// A gated linear unit (arXiv 2002.05202) is of interleaved rows: row 2i is the gate's row i, row 2i + 1 the up projection's; it writes
// activated(gate) * up. A part of it begins at an even row.
//!include <activation>

// As the host names them (Output::kind).
const STORED: u32 = 0u;
const ADDED: u32 = 1u;
const GATED_UNITS: u32 = 2u;

// Four consecutive rows of a product: written, added to what is there (the residual connection), or made units of.
fn output4(y_at: u32, row: u32, values: vec4<f32>) {
    let at = matrix.first_row + row;
    let output = $output_kind(matrix.output);
    if output == GATED_UNITS {
        let unit = y_at + at / 2u;
        y[unit] = activated(values.x) * values.y;
        if row + 2u < matrix.rows {
            y[unit + 1u] = activated(values.z) * values.w;
        }
        return;
    }
    //!repeat 4 i
    if row{+i} < matrix.rows {
        var value{i} = values.{xyzw[i]};
        if output == ADDED {
            value{i} += y[y_at + at{+i}];
        }
        y[y_at + at{+i}] = value{i};
    }
    //!end
}
