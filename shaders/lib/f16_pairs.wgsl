fn kv_low(eight: vec4<u32>) -> vec4<f32> {
    return vec4(unpack2x16float(eight.x), unpack2x16float(eight.y));
}

fn kv_high(eight: vec4<u32>) -> vec4<f32> {
    return vec4(unpack2x16float(eight.z), unpack2x16float(eight.w));
}

// The largest finite f16: what is larger is stored as this, so that one outlier does not become an infinity.
const F16_MAX: f32 = 65504.0;

fn kv_pack(a: f32, b: f32) -> u32 {
    return pack2x16float(clamp(vec2(a, b), vec2(-F16_MAX), vec2(F16_MAX)));
}
