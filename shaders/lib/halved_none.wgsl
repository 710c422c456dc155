// What is normed stays floats (rms_norm).
fn note_normed(values: vec4<f32>) {}

fn halve_row(lane: u32, from_at: u32) {}
