// 4-bit weights in blocks of 32 around zero (Q4_0): w = d * (q - 8).
//!include lib/quants4.wgsl
//!include lib/half_scales.wgsl

fn scale_of(bits: ScaleBits) -> vec2<f32> {
    return half_scale(bits) * vec2(1.0, -8.0);
}
