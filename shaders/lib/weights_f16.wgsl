// f16 weights.
//!include lib/weights_half.wgsl

fn unpack4(a: u32, b: u32) -> vec4<f32> {
    return vec4(unpack2x16float(a), unpack2x16float(b));
}
