// The low four bits of quantised weights: word i of a unit's four holds weights 8i .. 8i+7, the first four in the low nibbles
// of its bytes, the last four in the high ones.

// Four weights' bits as four bytes.
fn low_nibbles(word: u32) -> u32 {
    return word & 0x0f0f0f0fu;
}

fn high_nibbles(word: u32) -> u32 {
    return (word >> 4u) & 0x0f0f0f0fu;
}

fn byte_floats(bytes: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xU8(bytes));
}
