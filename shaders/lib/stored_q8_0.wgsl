// Head-blocks that come from CPU memory as bytes, with a scale in half precision for every 32 of them: first the scales,
// two a word, and then the bytes.
@group(0) @binding(0) var<storage, read> stored: array<vec4<u32>>;

// Of one head-block.
const HEAD_VECS: u32 = CACHED_ROWS * BLOCK * ROW_VECS;
const SCALE_VECS: u32 = (HEAD_VECS / 4u + 7u) / 8u;
const STORED_VECS: u32 = SCALE_VECS + HEAD_VECS / 2u;

// Scales are not negative. Subnormal ones, of groups whose largest value is below 0.008, by hand: adapters may flush them.
fn stored_scale(half: u32) -> f32 {
    return select(unpack2x16float(half).x, f32(half) * 0x1p-24, half < 0x400u);
}

// Values 8 * i .. 8 * i + 7, as the cache has them, of the head-block that begins at `first`.
fn stored_eight(first: u32, i: u32) -> vec4<u32> {
    let group = i / 4u;
    let halves = stored[first + group / 8u][group / 2u % 4u];
    let scale = stored_scale(select(halves & 0xffffu, halves >> 16u, group % 2u == 1u));
    let sixteen = stored[first + SCALE_VECS + i / 2u];
    let eight = select(sixteen.xy, sixteen.zw, i % 2u == 1u);
    let low = scale * vec4<f32>(unpack4xI8(eight.x));
    let high = scale * vec4<f32>(unpack4xI8(eight.y));
    return vec4(kv_pack(low.x, low.y), kv_pack(low.z, low.w), kv_pack(high.x, high.y), kv_pack(high.z, high.w));
}
