// Weights of f16 and bf16: two a word, and a unit of 32 in four vec4. The including file provides
//   fn unpack4(a: u32, b: u32) -> vec4<f32>    the weights of two words
// The scales binding is unused.
@group(0) @binding(2) var<storage, read> weights: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> scales: array<u32>;

// Sixteen words of four rows would take too many of a lane's registers, so nothing is loaded before it is used.
struct UnitBits {
    unit: u32,
}

fn unit_bits(unit: u32) -> UnitBits {
    return UnitBits(unit);
}

const HAVE_OFFSETS: bool = false;

fn bits_quad(bits: UnitBits, quad: u32) -> vec4<f32> {
    return unit_quad(bits.unit, quad);
}

// Weights have no factors.
fn bits_factors(bits: UnitBits) -> vec3<f32> {
    return vec3(1.0, 1.0, 0.0);
}

// The dot product of one unit of 32 weights with 32 inputs.
fn unit_dot(bits: UnitBits, x: array<vec4<f32>, 8>) -> f32 {
    let a = weights[bits.unit * 4u];
    let b = weights[bits.unit * 4u + 1u];
    let c = weights[bits.unit * 4u + 2u];
    let d = weights[bits.unit * 4u + 3u];
    var products = unpack4(a.x, a.y) * x[0] + unpack4(a.z, a.w) * x[1];
    products += unpack4(b.x, b.y) * x[2] + unpack4(b.z, b.w) * x[3];
    products += unpack4(c.x, c.y) * x[4] + unpack4(c.z, c.w) * x[5];
    products += unpack4(d.x, d.y) * x[6] + unpack4(d.z, d.w) * x[7];
    return dot(products, vec4(1.0));
}

// Weights 4 * quad .. 4 * quad + 3 of one unit.
fn unit_quad(unit: u32, quad: u32) -> vec4<f32> {
    let four = weights[unit * 4u + quad / 2u];
    let pair = select(four.xy, four.zw, (quad & 1u) == 1u);
    return unpack4(pair.x, pair.y);
}

// The 32 weights of one unit.
fn unit_load(unit: u32) -> array<vec4<f32>, 8> {
    let a = weights[unit * 4u];
    let b = weights[unit * 4u + 1u];
    let c = weights[unit * 4u + 2u];
    let d = weights[unit * 4u + 3u];
    return array<vec4<f32>, 8>(
        //!repeat 4 i
        unpack4({abcd[i]}.x, {abcd[i]}.y), unpack4({abcd[i]}.z, {abcd[i]}.w),
        //!end
    );
}
