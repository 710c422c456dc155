// Weights as f16 (matmul_narrow), of four bits (quants4.wgsl) whose scales are f16: in pairs, without floats between, which is a
// third of the instructions. Each is rounded once, as by way of floats.

// Weights 4 * quad, + 2, + 1 and + 3 of a unit, by its factors (bits_factors).
fn quad_halves(bits: UnitBits, factors: vec3<f32>, quad: u32) -> vec4<f16> {
    let nibbles = bits.quants[quad / 2u] >> (4u * (quad % 2u));
    let scale = vec2(f16(factors.x));
    let offset = vec2(f16(factors.z));
    return vec4<f16>(fma(pair(nibbles), scale, offset), fma(pair(nibbles >> 8u), scale, offset));
}

// The low nibbles of bytes 0 and 2: as the last bits of an f16 from 1024 on they are integers. The way by f32 is no instruction, only
// the bitcast to f16 that naga lacks.
fn pair(bytes: u32) -> vec2<f16> {
    return vec2<f16>(unpack2x16float((bytes & 0x000f000fu) | 0x64006400u)) - vec2(1024.0h);
}
