// Weights w = d * q + m with q of four bits. The including file provides unit_scale of weights_affine.wgsl.
//!include lib/weights_affine.wgsl
//!include lib/nibbles.wgsl
@group(0) @binding(2) var<storage, read> weights: array<vec4<u32>>;

fn unit_quants(unit: u32) -> array<vec4<f32>, 8> {
    let q = weights[unit];
    return array<vec4<f32>, 8>(
        byte_floats(low_nibbles(q.x)), byte_floats(high_nibbles(q.x)),
        byte_floats(low_nibbles(q.y)), byte_floats(high_nibbles(q.y)),
        byte_floats(low_nibbles(q.z)), byte_floats(high_nibbles(q.z)),
        byte_floats(low_nibbles(q.w)), byte_floats(high_nibbles(q.w)),
    );
}

fn quad_quants(unit: u32, quad: u32) -> vec4<f32> {
    return byte_floats(low_nibbles(weights[unit][quad / 2u] >> ((quad & 1u) * 4u)));
}
