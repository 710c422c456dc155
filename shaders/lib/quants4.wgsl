// Weights w = d * q + m with q of four bits. The including file provides
//   ScaleBits                                      what a unit's d and m are made of, as loaded
//   fn scale_bits(unit: u32) -> ScaleBits
//   fn scale_of(bits: ScaleBits) -> vec2<f32>      d and m
//!include lib/weights_affine.wgsl
//!include lib/nibbles.wgsl
@group(0) @binding(2) var<storage, read> weights: array<vec4<u32>>;

struct UnitBits {
    quants: vec4<u32>,
    scale: ScaleBits,
}

fn unit_bits(unit: u32) -> UnitBits {
    return UnitBits(weights[unit], scale_bits(unit));
}

fn bits_scale(bits: UnitBits) -> vec2<f32> {
    return scale_of(bits.scale);
}

fn unit_scale(unit: u32) -> vec2<f32> {
    return scale_of(scale_bits(unit));
}

fn fours(word: u32, quad: u32) -> u32 {
    return low_nibbles(word >> ((quad & 1u) * 4u));
}

fn bits_bytes(bits: UnitBits, quad: u32) -> u32 {
    return fours(bits.quants[quad / 2u], quad);
}

fn quad_quants(unit: u32, quad: u32) -> vec4<f32> {
    return byte_floats(fours(weights[unit][quad / 2u], quad));
}
