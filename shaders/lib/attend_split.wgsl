// Decode attention of one row over one split of its tokens (flash-decoding, arXiv 2311.01282): a partial state
// (m, l, o) per query head, merged later. The including kernel provides, for a row and KV head, the tokens:
//   fn token_count(row: u32, kv_head: u32) -> u32
//   fn token_at(row: u32, kv_head: u32, i: u32) -> u32     position of the i-th attended token
//
// Work is in tiles of 64 tokens, lane = token. A team of LANES lanes reads one token's row together, PARTS vec4 (of
// eight f16) a lane, and owns the 64 / TEAMS tokens of its own lanes. Up to four query heads of the KV head are
// the components of every vec4, so a key or value is read once for four heads.
// Grid: (splits, KV heads * QUADS, rows).
const WORKGROUP: u32 = 64u;
const LANES: u32 = min(8u, HEAD_DIM / 8u);
const TEAMS: u32 = WORKGROUP / LANES;
const PARTS: u32 = HEAD_DIM / 8u / LANES;
const QUADS: u32 = (GROUP + 3u) / 4u;
const Q_HEADS: u32 = KV_HEADS * GROUP;
const QKV_WIDTH: u32 = (Q_HEADS + 2u * KV_HEADS) * HEAD_DIM;
// Below every logit of finite keys, and finite: exp(NOTHING - NOTHING) must not be NaN.
const NOTHING: f32 = -1.0e30;

@group(0) @binding(1) var<uniform> segment: Segment;
@group(0) @binding(2) var<storage, read> qkv: array<f32>;
@group(0) @binding(3) var<storage, read> kv: array<vec4<u32>>;
// [row][query head][segment][split]: o as HEAD_DIM floats, and (m, l)
@group(0) @binding(4) var<storage, read_write> partial_o: array<f32>;
@group(0) @binding(5) var<storage, read_write> partial_ml: array<vec2<f32>>;

// Partial dot products [token][lane of its team], then accumulators [team][lane][8 dimensions].
var<workgroup> scratch: array<vec4<f32>, 512>;
// Logits, then probabilities, of the tile's tokens.
var<workgroup> weights: array<vec4<f32>, WORKGROUP>;

fn query(row: u32, kv_head: u32, quad: u32, dimension: u32) -> vec4<f32> {
    let first = quad * 4u;
    let at = row * QKV_WIDTH + kv_head * GROUP * HEAD_DIM + dimension;
    return vec4(
        qkv[at + min(first, GROUP - 1u) * HEAD_DIM],
        qkv[at + min(first + 1u, GROUP - 1u) * HEAD_DIM],
        qkv[at + min(first + 2u, GROUP - 1u) * HEAD_DIM],
        qkv[at + min(first + 3u, GROUP - 1u) * HEAD_DIM],
    ) * SCALE;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = lane_of(local, WORKGROUP);
    let split = group.x;
    let kv_head = group.y / QUADS;
    let quad = group.y % QUADS;
    let row = group.z;
    let member = lane % LANES;
    let team = lane / LANES;
    let total = token_count(row, kv_head);
    let split_tokens = step[H_SPLIT_TILES] * WORKGROUP;
    let begin = min(split * split_tokens, total);
    let end = min(begin + split_tokens, total);

    // This lane's share of the queries.
    var q = array<vec4<f32>, PARTS * 8u>();
    for (var i = 0u; i < PARTS * 8u; i++) {
        q[i] = query(row, kv_head, quad, (i / 8u * LANES + member) * 8u + i % 8u);
    }
    var o = array<vec4<f32>, PARTS * 8u>();
    var m = vec4(NOTHING);
    var l = vec4(0.0);

    for (var tile = begin; tile < end; tile += WORKGROUP) {
        for (var i = 0u; i < LANES; i++) {
            // Tokens past the end repeat the last one here and get no weight below.
            let slot = slot_of(row, kv_head, min(tile + team * LANES + i, end - 1u));
            var products = vec4(0.0);
            if slot.x < segment.blocks {
                let at = kv_row(slot.x, kv_head, KEYS, slot.y);
                for (var p = 0u; p < PARTS; p++) {
                    let eight = kv[at + p * LANES + member];
                    let low = kv_low(eight);
                    let high = kv_high(eight);
                    products += q[p * 8u] * low.x + q[p * 8u + 1u] * low.y;
                    products += q[p * 8u + 2u] * low.z + q[p * 8u + 3u] * low.w;
                    products += q[p * 8u + 4u] * high.x + q[p * 8u + 5u] * high.y;
                    products += q[p * 8u + 6u] * high.z + q[p * 8u + 7u] * high.w;
                }
            }
            scratch[(team * LANES + i) * LANES + member] = products;
        }
        workgroupBarrier();
        // The logit of this lane's own token.
        var logit = scratch[lane * LANES];
        for (var i = 1u; i < LANES; i++) {
            logit += scratch[lane * LANES + i];
        }
        let counts = tile + lane < end
            && slot_of(row, kv_head, min(tile + lane, end - 1u)).x < segment.blocks;
        weights[lane] = select(vec4(NOTHING), logit, counts);
        workgroupBarrier();
        var largest = weights[team * LANES];
        for (var i = 1u; i < LANES; i++) {
            largest = max(largest, weights[team * LANES + i]);
        }
        let next = max(m, largest);
        let rescale = exp(m - next);
        m = next;
        workgroupBarrier();
        let weight = select(vec4(0.0), exp(logit - m), counts);
        weights[lane] = weight;
        l = l * rescale + weight;
        workgroupBarrier();
        for (var i = 0u; i < PARTS * 8u; i++) {
            o[i] *= rescale;
        }
        for (var i = 0u; i < LANES; i++) {
            let slot = slot_of(row, kv_head, min(tile + team * LANES + i, end - 1u));
            if slot.x < segment.blocks {
                let at = kv_row(slot.x, kv_head, VALUES, slot.y);
                let w = weights[team * LANES + i];
                for (var p = 0u; p < PARTS; p++) {
                    let eight = kv[at + p * LANES + member];
                    let low = kv_low(eight);
                    let high = kv_high(eight);
                    o[p * 8u] += w * low.x;
                    o[p * 8u + 1u] += w * low.y;
                    o[p * 8u + 2u] += w * low.z;
                    o[p * 8u + 3u] += w * low.w;
                    o[p * 8u + 4u] += w * high.x;
                    o[p * 8u + 5u] += w * high.y;
                    o[p * 8u + 6u] += w * high.z;
                    o[p * 8u + 7u] += w * high.w;
                }
            }
        }
    }

    // Merge the teams: their maxima first, then sums and accumulators scaled to the common maximum.
    workgroupBarrier();
    weights[lane] = m;
    workgroupBarrier();
    var joint = weights[0];
    for (var i = 1u; i < TEAMS; i++) {
        joint = max(joint, weights[i * LANES]);
    }
    workgroupBarrier();
    let rescale = exp(m - joint);
    weights[lane] = l * rescale;
    workgroupBarrier();
    if member == 0u {
        for (var i = 1u; i < LANES; i++) {
            weights[lane] += weights[lane + i];
        }
    }
    workgroupBarrier();
    let splits = step[H_SPLITS];
    let heads = min(4u, GROUP - quad * 4u);
    let first = ((row * Q_HEADS + kv_head * GROUP + quad * 4u) * segment.count + segment.index) * splits + split;
    if lane == 0u {
        var sum = weights[0];
        for (var i = 1u; i < TEAMS; i++) {
            sum += weights[i * LANES];
        }
        for (var h = 0u; h < heads; h++) {
            partial_ml[first + h * segment.count * splits] = vec2(joint[h], sum[h]);
        }
    }
    for (var p = 0u; p < PARTS; p++) {
        for (var i = 0u; i < 8u; i++) {
            scratch[lane * 8u + i] = o[p * 8u + i] * rescale;
        }
        workgroupBarrier();
        if lane < LANES * 8u {
            var sum = scratch[lane];
            for (var t = 1u; t < TEAMS; t++) {
                sum += scratch[t * LANES * 8u + lane];
            }
            for (var h = 0u; h < heads; h++) {
                let at = (first + h * segment.count * splits) * HEAD_DIM + p * LANES * 8u + lane;
                partial_o[at] = sum[h];
            }
        }
        workgroupBarrier();
    }
}

// The i-th attended token's block, counted from this segment's first (past the segment's blocks when it lies in another
// segment), and its place in the block.
fn slot_of(row: u32, kv_head: u32, i: u32) -> vec2<u32> {
    let token = token_at(row, kv_head, i);
    return vec2(row_block(row, token / BLOCK) - segment.first, token % BLOCK);
}
