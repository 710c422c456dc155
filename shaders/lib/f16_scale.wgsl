// Powers of two that take numbers into the range of f16. Numbers are divided by 2^shift so that the largest magnitude lies in
// 2^14 .. 2^15, half of what f16 holds: nothing overflows. What is below 2^-28 of the largest becomes a subnormal f16 or
// zero, which is off by at most 2^-28 of the largest.

// The shift for a largest magnitude. Magnitudes below 2^-100 count as that, so that 2^shift and 2^-shift are normal
// floats; what is not finite stays so.
fn f16_shift(largest: f32) -> i32 {
    let exponent = i32((bitcast<u32>(largest) >> 23u) & 0xffu) - 127;
    return max(exponent, -100) - 14;
}

fn power_of_two(exponent: i32) -> f32 {
    return bitcast<f32>(u32(exponent + 127) << 23u);
}

// Sums of products of what was divided by these two powers of two. The smaller first: what fits in the end does not overflow on the
// way.
fn scaled_back(sums: vec4<f32>, a: f32, b: f32) -> vec4<f32> {
    return sums * min(a, b) * max(a, b);
}
