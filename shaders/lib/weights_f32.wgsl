// f32 weights. A unit is 32 weights: eight vec4. The scales binding is unused.
@group(0) @binding(2) var<storage, read> weights: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> scales: array<u32>;

// 32 words of four rows would take too many of a lane's registers, so nothing is loaded before it is used.
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
    let unit = bits.unit;
    var products = unit_quad(unit, 0u) * x[0] + unit_quad(unit, 1u) * x[1];
    //!repeat 1..4 i
    products += unit_quad(unit, {2*i}u) * x[{2*i}] + unit_quad(unit, {2*i+1}u) * x[{2*i+1}];
    //!end
    return dot(products, vec4(1.0));
}

// Weights 4 * quad .. 4 * quad + 3 of one unit.
fn unit_quad(unit: u32, quad: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(weights[unit * 8u + quad]);
}

// The 32 weights of one unit.
fn unit_load(unit: u32) -> array<vec4<f32>, 8> {
    return array<vec4<f32>, 8>(
        //!repeat 8 i
        unit_quad(unit, {i}u),
        //!end
    );
}
