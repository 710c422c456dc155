// What formats of weights w = d * q + m in units of 32 share, q of a few bits. The including file provides
//   fn unit_scale(unit: u32) -> vec2<f32>               d and m of one unit
//   fn unit_quants(unit: u32) -> array<vec4<f32>, 8>    its 32 q
//   fn quad_quants(unit: u32, quad: u32) -> vec4<f32>   q 4 * quad .. 4 * quad + 3

// The dot product of one unit of 32 weights with 32 inputs.
fn unit_dot(unit: u32, x: array<vec4<f32>, 8>) -> f32 {
    let q = unit_quants(unit);
    let scale = unit_scale(unit);
    var products = q[0] * x[0] + q[1] * x[1];
    products += q[2] * x[2] + q[3] * x[3];
    products += q[4] * x[4] + q[5] * x[5];
    products += q[6] * x[6] + q[7] * x[7];
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
    let q = unit_quants(unit);
    let scale = unit_scale(unit);
    let d = scale.x;
    let m = vec4(scale.y);
    return array<vec4<f32>, 8>(
        d * q[0] + m, d * q[1] + m, d * q[2] + m, d * q[3] + m, d * q[4] + m, d * q[5] + m, d * q[6] + m, d * q[7] + m,
    );
}
