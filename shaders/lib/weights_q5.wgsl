// 5-bit weights in blocks of 32 (Q5_1; Q5_0 is the case m = -16 d): of each unit d and m in half precision, then its fifth
// bits.
//!include lib/quants5.wgsl
@group(0) @binding(3) var<storage, read> scales: array<vec2<u32>>;

fn unit_scale(unit: u32) -> vec2<f32> {
    return unpack2x16float(scales[unit].x);
}

fn fifth_bits(unit: u32) -> u32 {
    return scales[unit].y;
}
