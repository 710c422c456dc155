// What is normed becomes f16 beside, as half_rows.wgsl makes it (rms_norm): of rows whose width is a multiple of 32.
//!include lib/half_row.wgsl

// Of what this lane wrote.
var<private> largest_normed: u32;

fn note_normed(values: vec4<f32>) {
    largest_normed = larger_magnitude(largest_normed, values);
}

// Of the row that begins at y[from_at]; a lane reads what it wrote. Every lane must call.
fn halve_row(lane: u32, from_at: u32) {
    // Others may still read the sum of squares.
    workgroupBarrier();
    let shift = row_shift(lane, largest_normed);
    let factor = power_of_two(-shift);
    // A vec4 of floats has the room of two pairs of words.
    let to_at = 2u * from_at;
    for (var i = lane; i < rms_norm.width / 4u; i += WORKGROUP) {
        write_halves(to_at + i, y[from_at + i], factor);
    }
    if lane == 0u {
        write_shift(to_at + rms_norm.width / 4u, shift);
    }
}
