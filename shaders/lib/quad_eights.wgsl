// Up to four query heads of a KV head are the components of every vec4, so that a key or value is read once for four heads.
//!include lib/attended.wgsl

const QUADS: u32 = (GROUP + 3u) / 4u;

@group(0) @binding(2) var<storage, read> qkv: array<f32>;
@group(0) @binding(3) var<storage, read> kv: array<vec4<u32>>;

// Eight dimensions, each for four heads. Named rather than indexed: an array that a loop indexes would live in memory.
struct Eight {
    //!repeat 8 i
    v{i}: vec4<f32>,
    //!end
}

// One dimension of a quad's queries: component c is of head `own_head ^ c`, so that heads are in order where that is 0. A last quad
// that is not full repeats its last head, which is never written out.
fn query(at: u32, quad: u32, own_head: u32) -> vec4<f32> {
    let head = quad * 4u + own_head;
    return vec4(
        //!repeat 4 c
        qkv[at + min(head ^ {c}u, GROUP - 1u) * HEAD_DIM],
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

// Eight numbers of a row, and of some row where there is none. The load itself is unconditional, so that several are on their way at
// a time.
fn some8(row: u32, vec: u32) -> vec4<u32> {
    return kv[select(row, 0u, row == NOWHERE) + vec];
}

// The same, but zeros where there is none.
fn load8(row: u32, vec: u32) -> vec4<u32> {
    return select(some8(row, vec), vec4(0u), row == NOWHERE);
}
