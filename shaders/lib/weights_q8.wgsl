// 8-bit weights: w = d * q in blocks of 32 (Q8_0), q signed, four a word in order.
//!include lib/half_scales.wgsl
@group(0) @binding(2) var<storage, read> weights: array<vec4<u32>>;

fn signed_bytes(word: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xI8(word));
}

// The stored words of one unit, as loaded.
struct UnitBits {
    a: vec4<u32>,
    b: vec4<u32>,
    scale: ScaleBits,
}

fn unit_bits(unit: u32) -> UnitBits {
    return UnitBits(weights[unit * 2u], weights[unit * 2u + 1u], scale_bits(unit));
}

const HAVE_OFFSETS: bool = false;
const TWO_SCALES: bool = false;

// q 4 * quad .. 4 * quad + 3, a byte each.
fn bits_bytes(bits: UnitBits, quad: u32) -> u32 {
    return select(bits.a, bits.b, quad >= 4u)[quad & 3u];
}

fn bits_quad(bits: UnitBits, quad: u32) -> vec4<f32> {
    return signed_bytes(bits_bytes(bits, quad));
}

// d, of the first four quads and of the last.
fn bits_factors(bits: UnitBits) -> vec3<f32> {
    return vec3(vec2(half_scale(bits.scale)), 0.0);
}

// The dot product of one unit of 32 weights with 32 inputs.
fn unit_dot(bits: UnitBits, x: array<vec4<f32>, 8>) -> f32 {
    let a = bits.a;
    let b = bits.b;
    var products = signed_bytes(a.x) * x[0] + signed_bytes(a.y) * x[1];
    products += signed_bytes(a.z) * x[2] + signed_bytes(a.w) * x[3];
    products += signed_bytes(b.x) * x[4] + signed_bytes(b.y) * x[5];
    products += signed_bytes(b.z) * x[6] + signed_bytes(b.w) * x[7];
    return half_scale(bits.scale) * dot(products, vec4(1.0));
}

// Weights 4 * quad .. 4 * quad + 3 of one unit.
fn unit_quad(unit: u32, quad: u32) -> vec4<f32> {
    let word = weights[unit * 2u + quad / 4u][quad & 3u];
    return half_scale(scale_bits(unit)) * signed_bytes(word);
}

// The 32 weights of one unit.
fn unit_load(unit: u32) -> array<vec4<f32>, 8> {
    let a = weights[unit * 2u];
    let b = weights[unit * 2u + 1u];
    let d = half_scale(scale_bits(unit));
    return array<vec4<f32>, 8>(
        //!repeat 4 i
        d * signed_bytes(a.{xyzw[i]}),
        //!end
        //!repeat 4 i
        d * signed_bytes(b.{xyzw[i]}),
        //!end
    );
}
