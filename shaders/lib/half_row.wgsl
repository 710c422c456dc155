// A row of floats as f16, for products on matrix units. It keeps its length in memory: its numbers, in pairs, fill the first half
// of what counts, and the two words after them begin with the row's shift (f16_scale.wgsl) as an f16.
//!include lib/f16_scale.wgsl
//!include lib/magnitude.wgsl

@group(0) @binding(5) var<storage, read_write> halves: array<vec2<u32>>;

// The shift of a row, of what its lanes have found to be the largest. Every lane must call.
fn row_shift(lane: u32, largest: u32) -> i32 {
    // The upper 24 bits tell the exponent, and are exact as a float.
    let upper = u32(workgroup_max(lane, f32(largest >> 8u)));
    return f16_shift(bitcast<f32>(upper << 8u));
}

// `factor`: a power of two, of the shift's inverse.
fn write_halves(at: u32, values: vec4<f32>, factor: f32) {
    let v = values * factor;
    halves[at] = vec2(pack2x16float(v.xy), pack2x16float(v.zw));
}

fn write_shift(at: u32, shift: i32) {
    halves[at] = vec2(pack2x16float(vec2(f32(shift), 0.0)), 0u);
}
