// bf16 weights: the upper halves of f32.
//!include lib/weights_half.wgsl

fn unpack4(a: u32, b: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(vec4(a << 16u, a & 0xffff0000u, b << 16u, b & 0xffff0000u));
}
