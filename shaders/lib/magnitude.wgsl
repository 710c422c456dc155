// The largest magnitude so far, by its bits: these order NaN and infinities above all numbers.
fn larger_magnitude(largest: u32, values: vec4<f32>) -> u32 {
    let bits = bitcast<vec4<u32>>(values) & vec4(0x7fffffffu);
    return max(largest, max(max(bits.x, bits.y), max(bits.z, bits.w)));
}
