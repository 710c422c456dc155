// Writes four consecutive rows of a product under a soft-cap: a model's logits.
//!include <cap>

fn output4(y_at: u32, row: u32, values: vec4<f32>) {
    let at = y_at + matrix.first_row + row;
    let count = min(4u, matrix.rows - row);
    let logits = capped4(values);
    for (var i = 0u; i < count; i++) {
        y[at + i] = logits[i];
    }
}
