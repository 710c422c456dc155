// Weights as f16 (matmul_narrow), of any format, by way of floats.

// Weights 4 * quad, + 2, + 1 and + 3 of a unit, by its factors (bits_factors).
fn quad_halves(bits: UnitBits, factors: vec3<f32>, quad: u32) -> vec4<f16> {
    let scale = select(factors.x, factors.y, quad >= 4u);
    return vec4<f16>(scale * bits_quad(bits, quad) + factors.z).xzyw;
}
