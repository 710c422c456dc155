// 6-bit weights with two levels of scales (Q6_K): w = d * scale * q, q from -32 to 31. A unit is three vec2: the low four bits
// (nibbles.wgsl), then the upper two, those of weight 4k + i in bits 2k and 2k + 1 of byte i, weights 16 to 31 in the
// second word. The plane of scales has five words for eight units: d in half precision, then a signed byte for each 16
// weights. 6.625 bits a weight: the file's 6.5625, with d filled up to a word.
//!include lib/nibbles.wgsl
@group(0) @binding(2) var<storage, read> weights: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read> scales: array<u32>;

// Four q from their low bits, as bytes, and their upper bits, in the upper bits of bytes: bytes of 4 q take the sign along.
fn sixes(low: u32, upper: u32) -> u32 {
    return (low << 2u) | (upper & 0xc0c0c0c0u);
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

// 4 q, of weights 4 * quad .. 4 * quad + 3, a byte each.
fn bits_bytes(bits: UnitBits, quad: u32) -> u32 {
    let low = low_nibbles(bits.low[quad / 2u] >> ((quad & 1u) * 4u));
    return sixes(low, bits.upper[quad / 4u] << (6u - 2u * (quad & 3u)));
}

fn bits_quad(bits: UnitBits, quad: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xI8(bits_bytes(bits, quad)));
}

const HAVE_OFFSETS: bool = false;
const TWO_SCALES: bool = true;

// The factors of the first four of bits_quad and of the last.
fn bits_factors(bits: UnitBits) -> vec3<f32> {
    return vec3(scales_of(bits.scale), 0.0);
}

// The dot product of one unit of 32 weights with 32 inputs.
fn unit_dot(bits: UnitBits, x: array<vec4<f32>, 8>) -> f32 {
    var first = bits_quad(bits, 0u) * x[0];
    var second = bits_quad(bits, 4u) * x[4];
    //!repeat 1..4 i
    first += bits_quad(bits, {i}u) * x[{i}];
    second += bits_quad(bits, {i+4}u) * x[{i+4}];
    //!end
    let scale = scales_of(bits.scale);
    return dot(scale.x * first + scale.y * second, vec4(1.0));
}

// Weights 4 * quad .. 4 * quad + 3 of one unit.
fn unit_quad(unit: u32, quad: u32) -> vec4<f32> {
    let bits = unit_bits(unit);
    let scale = scales_of(bits.scale);
    return select(scale.x, scale.y, quad >= 4u) * bits_quad(bits, quad);
}

// The 32 weights of one unit.
fn unit_load(unit: u32) -> array<vec4<f32>, 8> {
    let bits = unit_bits(unit);
    let scale = scales_of(bits.scale);
    return array<vec4<f32>, 8>(
        //!repeat 4 i
        scale.x * bits_quad(bits, {i}u),
        //!end
        //!repeat 4 i
        scale.y * bits_quad(bits, {i+4}u),
        //!end
    );
}
