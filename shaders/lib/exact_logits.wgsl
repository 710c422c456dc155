// The exact logit of a cached key: what the oracle scorers rank by.
//!include <cap>

@group(0) @binding(1) var<uniform> segment: Segment;
@group(0) @binding(2) var<storage, read> qkv: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> kv: array<vec4<u32>>;

const Q_HEADS: u32 = KV_HEADS * GROUP;
const QUERY_VECS: u32 = ROW_WIDTH / 4u;

// key: of kv_row.
fn exact_logit(row: u32, head: u32, key: u32) -> f32 {
    let query = row * QUERY_VECS + head * (HEAD_DIM / 4u);
    var sum = 0.0;
    for (var i = 0u; i < ROW_VECS; i++) {
        let eight = kv[key + i];
        sum += dot(qkv[query + i * 2u], kv_low(eight)) + dot(qkv[query + i * 2u + 1u], kv_high(eight));
    }
    return capped(sum * SCALE);
}
