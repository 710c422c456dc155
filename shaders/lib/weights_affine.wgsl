// Formats of weights w = d * q + m in units of 32, q of a few bits. The including file provides
//   struct UnitBits                                          what is stored of one unit, as loaded
//   fn unit_bits(unit: u32) -> UnitBits
//   fn bits_scale(bits: UnitBits) -> vec2<f32>               d and m
//   fn bits_bytes(bits: UnitBits, quad: u32) -> u32          q 4 * quad .. 4 * quad + 3, a byte each
//   fn unit_scale(unit: u32) -> vec2<f32>                    d and m of one unit
//   fn quad_quants(unit: u32, quad: u32) -> vec4<f32>        likewise, of one unit

const HAVE_OFFSETS: bool = true;
const TWO_SCALES: bool = false;

fn bits_quad(bits: UnitBits, quad: u32) -> vec4<f32> {
    return byte_floats(bits_bytes(bits, quad));
}

// d of the first four quads and of the last, and m.
fn bits_factors(bits: UnitBits) -> vec3<f32> {
    return bits_scale(bits).xxy;
}

// The dot product of one unit of 32 weights with 32 inputs. What is stored is loaded apart, so that a kernel can have loads on
// their way while it waits for something else.
fn unit_dot(bits: UnitBits, x: array<vec4<f32>, 8>) -> f32 {
    let scale = bits_scale(bits);
    var products = bits_quad(bits, 0u) * x[0] + bits_quad(bits, 1u) * x[1];
    //!repeat 1..4 i
    products += bits_quad(bits, {2*i}u) * x[{2*i}] + bits_quad(bits, {2*i+1}u) * x[{2*i+1}];
    //!end
    let sums = x[0] + x[1] + x[2] + x[3] + x[4] + x[5] + x[6] + x[7];
    return scale.x * dot(products, vec4(1.0)) + scale.y * dot(sums, vec4(1.0));
}

// Weights 4 * quad .. 4 * quad + 3 of one unit.
fn unit_quad(unit: u32, quad: u32) -> vec4<f32> {
    let scale = unit_scale(unit);
    return scale.x * quad_quants(unit, quad) + vec4(scale.y);
}

// The 32 weights of one unit.
fn unit_load(unit: u32) -> array<vec4<f32>, 8> {
    let bits = unit_bits(unit);
    let scale = bits_scale(bits);
    let d = scale.x;
    let m = vec4(scale.y);
    return array<vec4<f32>, 8>(
        //!repeat 8 i
        d * bits_quad(bits, {i}u) + m,
        //!end
    );
}
