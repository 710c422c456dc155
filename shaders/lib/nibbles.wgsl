// The low four bits of quantised weights: word i of a unit's four holds weights 8i .. 8i+7, the first four in the low nibbles
// of its bytes, the last four in the high ones.

// Four weights' bits as four bytes.
fn low_nibbles(word: u32) -> u32 {
    return word & 0x0f0f0f0fu;
}

fn high_nibbles(word: u32) -> u32 {
    return (word >> 4u) & 0x0f0f0f0fu;
}

// Bytes below 128 as floats, without conversions, which many GPUs do at a fraction of the rate of other operations: a byte
// put into the mantissa of 2^23 is 2^23 + byte * 2^(its place), so that one multiplication and addition, both exact, leave
// the byte.
fn byte_floats(bytes: u32) -> vec4<f32> {
    let bits = vec4(bytes & 0xffu, bytes & 0xff00u, bytes & 0xff0000u, bytes >> 24u) | vec4(0x4b000000u);
    let scale = vec4(1.0, 0.00390625, 0.0000152587890625, 1.0);
    return bitcast<vec4<f32>>(bits) * scale - 8388608.0 * scale;
}
