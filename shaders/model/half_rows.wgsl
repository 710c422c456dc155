// Rows of floats as f16, for products on matrix units. A row keeps its length in memory: its numbers, in pairs, fill the first
// half of what counts, and the two words after them begin with the row's shift (f16_scale.wgsl) as an f16. One workgroup a
// row.
// Grid: (rows).
//!include lib/lane.wgsl
//!include lib/f16_scale.wgsl
//!include <reduce>

struct Rows {
    // Floats in a row that count, a multiple of 32, and from one row to the next.
    width: u32,
    stride: u32,
}

@group(0) @binding(0) var<uniform> rows: Rows;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> halves: array<vec2<u32>>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = lane_of(local, WORKGROUP);
    let from_at = group.x * (rows.stride / 4u);
    let to_at = group.x * (rows.stride / 2u);
    // The largest magnitude by its bits, whose order no NaN disturbs. The upper 24 tell the exponent, and are exact as a
    // float.
    var largest = 0u;
    for (var i = lane; i < rows.width / 4u; i += WORKGROUP) {
        let bits = bitcast<vec4<u32>>(x[from_at + i]) & vec4(0x7fffffffu);
        largest = max(largest, max(max(bits.x, bits.y), max(bits.z, bits.w)));
    }
    let upper = u32(workgroup_max(lane, f32(largest >> 8u)));
    let shift = f16_shift(bitcast<f32>(upper << 8u));
    let factor = power_of_two(-shift);
    for (var i = lane; i < rows.width / 4u; i += WORKGROUP) {
        let v = x[from_at + i] * factor;
        halves[to_at + i] = vec2(pack2x16float(v.xy), pack2x16float(v.zw));
    }
    if lane == 0u {
        halves[to_at + rows.width / 4u] = vec2(pack2x16float(vec2(f32(shift), 0.0)), 0u);
    }
}
