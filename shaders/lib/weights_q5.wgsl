// 5-bit weights in blocks of 32 (Q5_1; Q5_0 is the case m = -16 d): of each unit d and m in half precision, then its fifth
// bits.
//!include lib/quants5.wgsl
@group(0) @binding(3) var<storage, read> scales: array<vec2<u32>>;

alias ScaleBits = vec2<u32>;

fn scale_bits(unit: u32) -> ScaleBits {
    return scales[unit];
}

fn scale_of(bits: ScaleBits) -> vec2<f32> {
    return unpack2x16float(bits.x);
}

fn fifth_of(bits: ScaleBits) -> u32 {
    return bits.y;
}
