// Scales in two levels, of Q4_K and Q5_K: eight units share d and dmin in half precision, each has a scale and a min of 6
// bits, all in one vec4. x: d and -dmin; y and z: of unit u the low four bits of its scale and of its min, from bit 4u;
// w: the upper two of its scale from bit 2u, of its min from bit 16 + 2u. The including file provides
//   const BLOCK_VEC4S: u32    vec4 from one eight units' scales to the next
@group(0) @binding(3) var<storage, read> scales: array<vec4<u32>>;

// Scales of four rows, four words each, would take too many of a lane's registers, so they are loaded where they are used.
alias ScaleBits = u32;

fn scale_bits(unit: u32) -> ScaleBits {
    return unit;
}

// d * scale and -dmin * min: exact, as products of 11 bits with 6.
fn scale_of(unit: ScaleBits) -> vec2<f32> {
    let words = scales[unit / 8u * BLOCK_VEC4S];
    let at = unit % 8u;
    let low = (words.yz >> vec2(4u * at)) & vec2(15u);
    let upper = words.w >> (2u * at);
    let high = vec2(upper << 4u, upper >> 12u) & vec2(48u);
    return unpack2x16float(words.x) * vec2<f32>(low | high);
}
