// Weights w = d * q + m with q of five bits: the plane of weights holds four of them, the plane of scales the fifth. The
// including file provides unit_scale of weights_affine.wgsl and
//   fn fifth_bits(unit: u32) -> u32    bit k of byte i is the fifth bit of weight 4k + i
//!include lib/weights_affine.wgsl
//!include lib/nibbles.wgsl
@group(0) @binding(2) var<storage, read> weights: array<vec4<u32>>;

fn unit_quants(unit: u32) -> array<vec4<f32>, 8> {
    let q = weights[unit];
    let fifth = fifth_bits(unit);
    return array<vec4<f32>, 8>(
        byte_floats(low_nibbles(q.x) | ((fifth << 4u) & 0x10101010u)),
        byte_floats(high_nibbles(q.x) | ((fifth << 3u) & 0x10101010u)),
        byte_floats(low_nibbles(q.y) | ((fifth << 2u) & 0x10101010u)),
        byte_floats(high_nibbles(q.y) | ((fifth << 1u) & 0x10101010u)),
        byte_floats(low_nibbles(q.z) | (fifth & 0x10101010u)),
        byte_floats(high_nibbles(q.z) | ((fifth >> 1u) & 0x10101010u)),
        byte_floats(low_nibbles(q.w) | ((fifth >> 2u) & 0x10101010u)),
        byte_floats(high_nibbles(q.w) | ((fifth >> 3u) & 0x10101010u)),
    );
}

fn quad_quants(unit: u32, quad: u32) -> vec4<f32> {
    let low = low_nibbles(weights[unit][quad / 2u] >> ((quad & 1u) * 4u));
    return byte_floats(low | (((fifth_bits(unit) >> quad) & 0x01010101u) << 4u));
}
