// 4-bit weights in blocks of 32 (Q4_1): d and m in half precision a unit.
//!include lib/quants4.wgsl
@group(0) @binding(3) var<storage, read> scales: array<u32>;

alias ScaleBits = u32;

fn scale_bits(unit: u32) -> ScaleBits {
    return scales[unit];
}

fn scale_of(bits: ScaleBits) -> vec2<f32> {
    return unpack2x16float(bits);
}
