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

// d * scale of both halves of a unit, for 4 q: exact, as a product of 11 bits with 8.
fn unit_scales(unit: u32) -> vec2<f32> {
    let block = unit / 8u * 5u;
    let at = unit % 8u;
    let bytes = unpack4xI8(scales[block + 1u + at / 2u] >> ((at & 1u) * 16u));
    return unpack2x16float(scales[block]).x * 0.25 * vec2<f32>(bytes.xy);
}

// 4 q of one unit.
fn unit_quants(unit: u32) -> array<vec4<f32>, 8> {
    let a = weights[unit * 3u];
    let b = weights[unit * 3u + 1u];
    let upper = weights[unit * 3u + 2u];
    return array<vec4<f32>, 8>(
        sixes(low_nibbles(a.x), upper.x << 6u), sixes(high_nibbles(a.x), upper.x << 4u),
        sixes(low_nibbles(a.y), upper.x << 2u), sixes(high_nibbles(a.y), upper.x),
        sixes(low_nibbles(b.x), upper.y << 6u), sixes(high_nibbles(b.x), upper.y << 4u),
        sixes(low_nibbles(b.y), upper.y << 2u), sixes(high_nibbles(b.y), upper.y),
    );
}

// The dot product of one unit of 32 weights with 32 inputs.
fn unit_dot(unit: u32, x: array<vec4<f32>, 8>) -> f32 {
    let q = unit_quants(unit);
    let first = q[0] * x[0] + q[1] * x[1] + q[2] * x[2] + q[3] * x[3];
    let second = q[4] * x[4] + q[5] * x[5] + q[6] * x[6] + q[7] * x[7];
    let scale = unit_scales(unit);
    return dot(scale.x * first + scale.y * second, vec4(1.0));
}

// Weights 4 * quad .. 4 * quad + 3 of one unit.
fn unit_quad(unit: u32, quad: u32) -> vec4<f32> {
    let word = weights[unit * 3u + quad / 4u][(quad / 2u) & 1u];
    let upper = weights[unit * 3u + 2u][quad / 4u];
    let q = sixes(low_nibbles(word >> ((quad & 1u) * 4u)), upper << (6u - 2u * (quad & 3u)));
    let scale = unit_scales(unit);
    return select(scale.x, scale.y, quad >= 4u) * q;
}

// The 32 weights of one unit.
fn unit_load(unit: u32) -> array<vec4<f32>, 8> {
    let q = unit_quants(unit);
    let scale = unit_scales(unit);
    return array<vec4<f32>, 8>(
        scale.x * q[0], scale.x * q[1], scale.x * q[2], scale.x * q[3],
        scale.y * q[4], scale.y * q[5], scale.y * q[6], scale.y * q[7],
    );
}
