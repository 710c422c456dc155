// Decode attention of one row over one split of its tokens (flash-decoding, arXiv 2311.01282), for the kernels that include
// it: a partial state (m, l, o) per query head, merged later. Up to four query heads of the KV head are the components of
// every vec4, so a key or value is read once for four heads. The including kernel provides its rows, and for a row and KV head
// the tokens:
//   fn row_of(i: u32) -> u32                               the i-th row that is attended so
//   fn token_count(row: u32, kv_head: u32) -> u32
//   fn token_at(row: u32, kv_head: u32, i: u32) -> u32     position of the i-th attended token
const QUADS: u32 = (GROUP + 3u) / 4u;
const Q_HEADS: u32 = KV_HEADS * GROUP;
const VALUE_VECS: u32 = VALUE_DIM / 8u;
// Below every logit of finite keys, and finite: exp(NOTHING - NOTHING) must not be NaN.
const NOTHING: f32 = -1.0e30;
const NOWHERE: u32 = 0xffffffffu;

@group(0) @binding(1) var<uniform> segment: Segment;
@group(0) @binding(2) var<storage, read> qkv: array<f32>;
@group(0) @binding(3) var<storage, read> kv: array<vec4<u32>>;
// [row][query head][segment][split]: o as VALUE_DIM floats, and (m, l)
@group(0) @binding(4) var<storage, read_write> partial_o: array<f32>;
@group(0) @binding(5) var<storage, read_write> partial_ml: array<vec2<f32>>;

// Eight dimensions, each for four heads. Named rather than indexed: an array that a loop indexes would live in memory.
struct Eight {
    //!repeat 8 i
    v{i}: vec4<f32>,
    //!end
}

// One dimension of a quad's queries; a last quad that is not full repeats its last head, which is never written out.
fn query(at: u32, quad: u32) -> vec4<f32> {
    let first = quad * 4u;
    return vec4(
        //!repeat 4 i
        qkv[at + min(first{+i}, GROUP - 1u) * HEAD_DIM],
        //!end
    ) * SCALE;
}

fn dot8(q: Eight, eight: vec4<u32>) -> vec4<f32> {
    let low = kv_low(eight);
    let high = kv_high(eight);
    return q.v0 * low.x + q.v1 * low.y + q.v2 * low.z + q.v3 * low.w
        + q.v4 * high.x + q.v5 * high.y + q.v6 * high.z + q.v7 * high.w;
}

fn add8(o: Eight, w: vec4<f32>, eight: vec4<u32>) -> Eight {
    let low = kv_low(eight);
    let high = kv_high(eight);
    return Eight(
        //!repeat 4 i
        o.v{i} + w * low.{xyzw[i]},
        //!end
        //!repeat 4 i
        o.v{i+4} + w * high.{xyzw[i]},
        //!end
    );
}

fn scale8(o: Eight, f: vec4<f32>) -> Eight {
    return Eight(o.v0 * f, o.v1 * f, o.v2 * f, o.v3 * f, o.v4 * f, o.v5 * f, o.v6 * f, o.v7 * f);
}

// Eight numbers of a row; zeros where there is none. The load itself is unconditional, so that several are on their way at
// a time.
fn load8(row: u32, vec: u32) -> vec4<u32> {
    let eight = kv[select(row, 0u, row == NOWHERE) + vec];
    return select(eight, vec4(0u), row == NOWHERE);
}

// Where the keys of the i-th attended token begin.
fn key_row(row: u32, kv_head: u32, i: u32, end: u32) -> u32 {
    if i >= end {
        return NOWHERE;
    }
    let token = token_at(row, kv_head, i);
    let slot = kv_place(row, kv_head, token / BLOCK) - segment.first;
    if slot >= segment.blocks {
        return NOWHERE;
    }
    return kv_row(slot, kv_head, KEYS, token % BLOCK);
}
