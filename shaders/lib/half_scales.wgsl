// A scale d in half precision for each unit, two a word.
@group(0) @binding(3) var<storage, read> scales: array<u32>;

// A unit's word, as loaded, and where in it d begins: nothing waits for the load before d is made of them.
alias ScaleBits = vec2<u32>;

fn scale_bits(unit: u32) -> ScaleBits {
    return vec2(scales[unit / 2u], 16u * (unit % 2u));
}

fn half_scale(bits: ScaleBits) -> f32 {
    return unpack2x16float(bits.x >> bits.y).x;
}
