// 4-bit weights: w = d * q + m in blocks of 32 (Q4_1; Q4_0 is the case m = -8 d). Word i of a block's vec4 holds weights
// 8i .. 8i+7: the low nibbles of its four bytes are the first four, the high nibbles the last four.
@group(0) @binding(2) var<storage, read> weights: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> scales: array<u32>;

fn low_nibbles(word: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xU8(word & 0x0f0f0f0fu));
}

fn high_nibbles(word: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xU8((word >> 4u) & 0x0f0f0f0fu));
}

// The dot product of one unit of 32 weights with 32 inputs.
fn unit_dot(unit: u32, x: array<vec4<f32>, 8>) -> f32 {
    let q = weights[unit];
    let scale = unpack2x16float(scales[unit]);
    var products = low_nibbles(q.x) * x[0] + high_nibbles(q.x) * x[1];
    products += low_nibbles(q.y) * x[2] + high_nibbles(q.y) * x[3];
    products += low_nibbles(q.z) * x[4] + high_nibbles(q.z) * x[5];
    products += low_nibbles(q.w) * x[6] + high_nibbles(q.w) * x[7];
    let sums = x[0] + x[1] + x[2] + x[3] + x[4] + x[5] + x[6] + x[7];
    return scale.x * dot(products, vec4(1.0)) + scale.y * dot(sums, vec4(1.0));
}

// Weights 4 * quad .. 4 * quad + 3 of one unit.
fn unit_quad(unit: u32, quad: u32) -> vec4<f32> {
    let word = weights[unit][quad / 2u] >> ((quad & 1u) * 4u);
    let scale = unpack2x16float(scales[unit]);
    return scale.x * low_nibbles(word) + vec4(scale.y);
}

// The 32 weights of one unit.
fn unit_load(unit: u32) -> array<vec4<f32>, 8> {
    let q = weights[unit];
    let scale = unpack2x16float(scales[unit]);
    let d = scale.x;
    let m = vec4(scale.y);
    return array<vec4<f32>, 8>(
        d * low_nibbles(q.x) + m, d * high_nibbles(q.x) + m, d * low_nibbles(q.y) + m, d * high_nibbles(q.y) + m,
        d * low_nibbles(q.z) + m, d * high_nibbles(q.z) + m, d * low_nibbles(q.w) + m, d * high_nibbles(q.w) + m,
    );
}
