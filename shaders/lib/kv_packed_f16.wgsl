// One segment of a layer's key and value cache: f16 in pairs. Physical block, KV head, keys or values, token, dimension:
// a head-block's keys and values are contiguous. A row of HEAD_DIM values is ROW_VECS vec4, eight values each. With
// SHARED_VALUES there are keys alone, and values are the first VALUE_DIM dimensions of them (latent attention).
const ROW_VECS: u32 = HEAD_DIM / 8u;
const KEYS: u32 = 0u;
const VALUES: u32 = 1u;
const CACHED_ROWS: u32 = select(2u, 1u, SHARED_VALUES);
// From a token's key to its value, in vec4.
const KEY_TO_VALUE: u32 = select(BLOCK * ROW_VECS, 0u, SHARED_VALUES);

struct Segment {
    // Physical blocks first .. first + blocks live in this segment.
    first: u32,
    blocks: u32,
    // Which segment of how many.
    index: u32,
    count: u32,
    // Only logical blocks from .. to may live in it.
    first_logical: u32,
    end_logical: u32,
}

fn kv_row(slot: u32, head: u32, which: u32, token: u32) -> u32 {
    return (((slot * KV_HEADS + head) * CACHED_ROWS + which) * BLOCK + token) * ROW_VECS;
}

fn kv_low(eight: vec4<u32>) -> vec4<f32> {
    return vec4(unpack2x16float(eight.x), unpack2x16float(eight.y));
}

fn kv_high(eight: vec4<u32>) -> vec4<f32> {
    return vec4(unpack2x16float(eight.z), unpack2x16float(eight.w));
}

// The largest finite f16: what is larger is stored as this, so that one outlier does not become an infinity.
const F16_MAX: f32 = 65504.0;

fn kv_pack(a: f32, b: f32) -> u32 {
    return pack2x16float(clamp(vec2(a, b), vec2(-F16_MAX), vec2(F16_MAX)));
}
