// Rows of floats as f16 (lib/half_row.wgsl). One workgroup a row.
// Grid: (rows).
//!include lib/lane.wgsl
//!include <reduce>
//!include lib/half_row.wgsl

struct Rows {
    // Floats in a row that count, a multiple of 32, and from one row to the next.
    width: u32,
    stride: u32,
}

@group(0) @binding(0) var<uniform> rows: Rows;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = lane_of(local, WORKGROUP);
    let from_at = group.x * (rows.stride / 4u);
    let to_at = group.x * (rows.stride / 2u);
    var largest = 0u;
    for (var i = lane; i < rows.width / 4u; i += WORKGROUP) {
        largest = larger_magnitude(largest, x[from_at + i]);
    }
    let shift = row_shift(lane, largest);
    let factor = power_of_two(-shift);
    for (var i = lane; i < rows.width / 4u; i += WORKGROUP) {
        write_halves(to_at + i, x[from_at + i], factor);
    }
    if lane == 0u {
        write_shift(to_at + rows.width / 4u, shift);
    }
}
