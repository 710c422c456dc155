// 6-bit weights with two levels of scales (Q6_K): w = d * scale * q, q from -32 to 31. A unit is three vec2: the low four bits
// (nibbles.wgsl), then the upper two, those of weight 4k + i in bits 2k and 2k + 1 of byte i, weights 16 to 31 in the
// second word. The plane of scales has five words for eight units: d in half precision, then a signed byte for each 16
// weights. 6.625 bits a weight: the file's 6.5625, with d filled up to a word.
//!include lib/nibbles.wgsl
@group(0) @binding(2) var<storage, read> weights: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read> scales: array<u32>;

// Four q from their low bits, as bytes, and their upper bits, in the upper bits of bytes: bytes of 4 q take the sign along.
fn sixes(low: u32, upper: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xI8((low << 2u) | (upper & 0xc0c0c0c0u)));
}

// The stored words of one unit, as loaded.
struct UnitBits {
    low: vec4<u32>,
    upper: vec2<u32>,
    // d, and the scales of both halves in the lower bytes.
    scale: vec2<u32>,
}

fn unit_bits(unit: u32) -> UnitBits {
    return UnitBits(vec4(weights[unit * 3u], weights[unit * 3u + 1u]), weights[unit * 3u + 2u], scale_bits(unit));
}

fn scale_bits(unit: u32) -> vec2<u32> {
    let block = unit / 8u * 5u;
    let at = unit % 8u;
    return vec2(scales[block], scales[block + 1u + at / 2u] >> ((at & 1u) * 16u));
}

// d * scale of both halves of a unit, for 4 q: exact, as a product of 11 bits with 8.
fn scales_of(bits: vec2<u32>) -> vec2<f32> {
    return unpack2x16float(bits.x).x * 0.25 * vec2<f32>(unpack4xI8(bits.y).xy);
}

// 4 q of one unit.
fn bits_quants(bits: UnitBits) -> array<vec4<f32>, 8> {
    let a = bits.low.xy;
    let b = bits.low.zw;
    let upper = bits.upper;
    return array<vec4<f32>, 8>(
        sixes(low_nibbles(a.x), upper.x << 6u), sixes(high_nibbles(a.x), upper.x << 4u),
        sixes(low_nibbles(a.y), upper.x << 2u), sixes(high_nibbles(a.y), upper.x),
        sixes(low_nibbles(b.x), upper.y << 6u), sixes(high_nibbles(b.x), upper.y << 4u),
        sixes(low_nibbles(b.y), upper.y << 2u), sixes(high_nibbles(b.y), upper.y),
    );
}

// The dot product of one unit of 32 weights with 32 inputs.
fn unit_dot(bits: UnitBits, x: array<vec4<f32>, 8>) -> f32 {
    let q = bits_quants(bits);
    let first = q[0] * x[0] + q[1] * x[1] + q[2] * x[2] + q[3] * x[3];
    let second = q[4] * x[4] + q[5] * x[5] + q[6] * x[6] + q[7] * x[7];
    let scale = scales_of(bits.scale);
    return dot(scale.x * first + scale.y * second, vec4(1.0));
}

// Weights 4 * quad .. 4 * quad + 3 of one unit.
fn unit_quad(unit: u32, quad: u32) -> vec4<f32> {
    let word = weights[unit * 3u + quad / 4u][(quad / 2u) & 1u];
    let upper = weights[unit * 3u + 2u][quad / 4u];
    let q = sixes(low_nibbles(word >> ((quad & 1u) * 4u)), upper << (6u - 2u * (quad & 3u)));
    let scale = scales_of(scale_bits(unit));
    return select(scale.x, scale.y, quad >= 4u) * q;
}

// The 32 weights of one unit.
fn unit_load(unit: u32) -> array<vec4<f32>, 8> {
    let bits = unit_bits(unit);
    let q = bits_quants(bits);
    let scale = scales_of(bits.scale);
    return array<vec4<f32>, 8>(
        //!repeat 4 i
        scale.x * q[{i}],
        //!end
        //!repeat 4 i
        scale.y * q[{i+4}],
        //!end
    );
}
