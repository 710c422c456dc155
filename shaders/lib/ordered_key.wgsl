// The order-preserving u32 image of an f32: a < b exactly when ordered_key(a) < ordered_key(b). NaN maps to 0, below
// minus infinity, so that it is never chosen before a number. The test is on bits: compilers may assume no NaN.
fn ordered_key(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    if (bits & 0x7fffffffu) > 0x7f800000u {
        return 0u;
    }
    // -0 and +0 are one value.
    if (bits & 0x7fffffffu) == 0u {
        return 0x80000000u;
    }
    return select(bits | 0x80000000u, ~bits, (bits & 0x80000000u) != 0u);
}

// The f32 of a key: +0 for both zeros, some NaN for 0.
fn ordered_value(key: u32) -> f32 {
    return bitcast<f32>(select(~key, key & 0x7fffffffu, key >= 0x80000000u));
}
