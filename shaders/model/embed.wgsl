// x[row] = the embedding of the row's token, times a factor. One part of the table at a time: rows whose token lies in another part are
// left alone. Grid: (ceil(units / 8), rows).
//!include lib/step.wgsl
//!include <weights>

struct Embed {
    // Units of 32 weights in a row of the table.
    units: u32,
    // Tokens in this part, and the first of them.
    rows: u32,
    first_row: u32,
    factor: f32,
}

@group(0) @binding(1) var<uniform> embed: Embed;
@group(0) @binding(4) var<storage, read_write> x: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group.y;
    let token = row_token(row);
    let quad = group.x * 64u + local;
    if quad >= embed.units * 8u || token < embed.first_row || token - embed.first_row >= embed.rows {
        return;
    }
    let unit = (token - embed.first_row) * embed.units + quad / 8u;
    x[row * embed.units * 8u + quad] = unit_quad(unit, quad % 8u) * embed.factor;
}
