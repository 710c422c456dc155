// Dense causal attention of many rows with online softmax (FlashAttention-2, arXiv 2307.08691), reading keys and values
// from the cache. A workgroup takes one tile of 64 rows and one query head; each of its 64 lanes 8 rows x 4 tokens of
// the logits and 8 rows x HEAD_DIM / 8 dimensions of the output, as outer products from workgroup memory, where
// four rows (or tokens) are one vec4. One dispatch a segment: states of earlier segments are read back and merged.
// Grid: (query heads, tiles).
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include <kv>

const WORKGROUP: u32 = 64u;
const TILE_TOKENS: u32 = 32u;
const DEPTH: u32 = 16u;
// Tokens of values staged at a time: 256 vec4.
const VALUE_TOKENS: u32 = min(TILE_TOKENS, 1024u / HEAD_DIM);
const DIMENSIONS: u32 = HEAD_DIM / 8u;
const Q_HEADS: u32 = KV_HEADS * GROUP;
const QKV_VECS: u32 = (Q_HEADS + 2u * KV_HEADS) * HEAD_DIM / 4u;
const NOTHING: f32 = -1.0e30;

@group(0) @binding(1) var<uniform> segment: Segment;
@group(0) @binding(2) var<storage, read> qkv: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> kv: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
// [row][query head]: (m, l), only used between segments
@group(0) @binding(5) var<storage, read_write> states: array<vec2<f32>>;

// Queries [16 dimensions][16 quads of rows] and keys [16][8 quads of tokens]; row maxima [16 quads][8 lanes]; values
// [VALUE_TOKENS][HEAD_DIM / 4].
var<workgroup> stage: array<vec4<f32>, 384>;
// Probabilities [32 tokens][16 quads of rows].
var<workgroup> p_tile: array<vec4<f32>, 512>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = lane_of(local, WORKGROUP);
    let head = group.x;
    let kv_head = head / GROUP;
    let tile_at = step[H_TILES_AT] + group.y * 2u;
    let first_row = step[tile_at];
    let rows = step[tile_at + 1u];
    let first_position = row_position(first_row);
    let last_position = first_position + rows - 1u;

    // Computing: 8 rows from row_at * 8, 4 tokens from token_at * 4, DIMENSIONS dimensions from token_at * DIMENSIONS.
    let row_at = lane / 8u;
    let token_at = lane % 8u;
    // Of a fixed length, so that constant indices are valid whatever the head; what is not used costs nothing.
    var o_lo = array<vec4<f32>, 16>();
    var o_hi = array<vec4<f32>, 16>();
    var m_lo = vec4(NOTHING);
    var m_hi = vec4(NOTHING);
    var l_lo = vec4(0.0);
    var l_hi = vec4(0.0);
    let position_lo = vec4(first_position + row_at * 8u) + vec4(0u, 1u, 2u, 3u);
    let position_hi = position_lo + 4u;

    for (var tile = 0u; tile <= last_position; tile += TILE_TOKENS) {
        let slot = row_block(first_row, tile / BLOCK) - segment.first;
        if slot >= segment.blocks {
            continue;
        }
        let in_block = tile % BLOCK;
        let keys = kv_row(slot, kv_head, KEYS, in_block);
        let values = kv_row(slot, kv_head, VALUES, in_block);

        var s_lo = array<vec4<f32>, 4>();
        var s_hi = array<vec4<f32>, 4>();
        for (var d = 0u; d < HEAD_DIM; d += DEPTH) {
            // Stage queries: a quad of rows x a quad of dimensions a lane.
            let quad = lane / 4u;
            let inner = lane % 4u;
            let q_at = head * (HEAD_DIM / 4u) + d / 4u + inner;
            let q0 = qkv[(first_row + min(quad * 4u, rows - 1u)) * QKV_VECS + q_at];
            let q1 = qkv[(first_row + min(quad * 4u + 1u, rows - 1u)) * QKV_VECS + q_at];
            let q2 = qkv[(first_row + min(quad * 4u + 2u, rows - 1u)) * QKV_VECS + q_at];
            let q3 = qkv[(first_row + min(quad * 4u + 3u, rows - 1u)) * QKV_VECS + q_at];
            workgroupBarrier();
            let to = inner * 64u + quad;
            stage[to] = vec4(q0.x, q1.x, q2.x, q3.x);
            stage[to + 16u] = vec4(q0.y, q1.y, q2.y, q3.y);
            stage[to + 32u] = vec4(q0.z, q1.z, q2.z, q3.z);
            stage[to + 48u] = vec4(q0.w, q1.w, q2.w, q3.w);
            // Stage keys: a quad of tokens x eight dimensions for each of 16 lanes.
            if lane < 16u {
                let k_at = keys + (lane / 2u) * 4u * ROW_VECS + d / 8u + lane % 2u;
                let k0 = kv[k_at];
                let k1 = kv[k_at + ROW_VECS];
                let k2 = kv[k_at + 2u * ROW_VECS];
                let k3 = kv[k_at + 3u * ROW_VECS];
                let k_to = 256u + (lane % 2u) * 64u + lane / 2u;
                stage_keys(k_to, kv_low(k0), kv_low(k1), kv_low(k2), kv_low(k3));
                stage_keys(k_to + 32u, kv_high(k0), kv_high(k1), kv_high(k2), kv_high(k3));
            }
            workgroupBarrier();
            for (var c = 0u; c < DEPTH; c++) {
                let q_lo = stage[c * 16u + row_at * 2u];
                let q_hi = stage[c * 16u + row_at * 2u + 1u];
                let k = stage[256u + c * 8u + token_at];
                s_lo[0] += q_lo * k.x;
                s_hi[0] += q_hi * k.x;
                s_lo[1] += q_lo * k.y;
                s_hi[1] += q_hi * k.y;
                s_lo[2] += q_lo * k.z;
                s_hi[2] += q_hi * k.z;
                s_lo[3] += q_lo * k.w;
                s_hi[3] += q_hi * k.w;
            }
        }

        // Scale and mask; the largest logit of each row, over this lane's tokens and then over the eight lanes of a row.
        var largest_lo = vec4(NOTHING);
        var largest_hi = vec4(NOTHING);
        let token = tile + token_at * 4u;
        for (var t = 0u; t < 4u; t++) {
            s_lo[t] = select(vec4(NOTHING), s_lo[t] * SCALE, vec4(token + t) <= position_lo);
            s_hi[t] = select(vec4(NOTHING), s_hi[t] * SCALE, vec4(token + t) <= position_hi);
            largest_lo = max(largest_lo, s_lo[t]);
            largest_hi = max(largest_hi, s_hi[t]);
        }
        workgroupBarrier();
        stage[row_at * 16u + token_at] = largest_lo;
        stage[row_at * 16u + 8u + token_at] = largest_hi;
        workgroupBarrier();
        for (var i = 0u; i < 8u; i++) {
            largest_lo = max(largest_lo, stage[row_at * 16u + i]);
            largest_hi = max(largest_hi, stage[row_at * 16u + 8u + i]);
        }
        let next_lo = max(m_lo, largest_lo);
        let next_hi = max(m_hi, largest_hi);
        let rescale_lo = exp(m_lo - next_lo);
        let rescale_hi = exp(m_hi - next_hi);
        m_lo = next_lo;
        m_hi = next_hi;
        l_lo *= rescale_lo;
        l_hi *= rescale_hi;
        for (var t = 0u; t < 4u; t++) {
            let p_lo = select(vec4(0.0), exp(s_lo[t] - m_lo), vec4(token + t) <= position_lo);
            let p_hi = select(vec4(0.0), exp(s_hi[t] - m_hi), vec4(token + t) <= position_hi);
            l_lo += p_lo;
            l_hi += p_hi;
            p_tile[(token_at * 4u + t) * 16u + row_at * 2u] = p_lo;
            p_tile[(token_at * 4u + t) * 16u + row_at * 2u + 1u] = p_hi;
        }
        // All sixteen: the unused ones are removed by the compiler, and a constant count is unrolled.
        for (var i = 0u; i < 16u; i++) {
            o_lo[i] *= rescale_lo;
            o_hi[i] *= rescale_hi;
        }

        for (var v = 0u; v < TILE_TOKENS; v += VALUE_TOKENS) {
            workgroupBarrier();
            for (var i = lane; i < VALUE_TOKENS * ROW_VECS; i += WORKGROUP) {
                // What lies past the last token was never written, or by another sequence: 0 * NaN would be NaN.
                let written = tile + v + i / ROW_VECS <= last_position;
                let eight = select(vec4(0u), kv[values + v * ROW_VECS + i], written);
                stage[i * 2u] = kv_low(eight);
                stage[i * 2u + 1u] = kv_high(eight);
            }
            workgroupBarrier();
            for (var t = 0u; t < VALUE_TOKENS; t++) {
                let p_lo = p_tile[(v + t) * 16u + row_at * 2u];
                let p_hi = p_tile[(v + t) * 16u + row_at * 2u + 1u];
                let at = (t * HEAD_DIM + token_at * DIMENSIONS) / 4u;
                let v0 = stage[at];
                o_lo[0] += p_lo * v0.x;
                o_hi[0] += p_hi * v0.x;
                o_lo[1] += p_lo * v0.y;
                o_hi[1] += p_hi * v0.y;
                o_lo[2] += p_lo * v0.z;
                o_hi[2] += p_hi * v0.z;
                o_lo[3] += p_lo * v0.w;
                o_hi[3] += p_hi * v0.w;
                if DIMENSIONS > 4u {
                    let v1 = stage[at + 1u];
                    o_lo[4] += p_lo * v1.x;
                    o_hi[4] += p_hi * v1.x;
                    o_lo[5] += p_lo * v1.y;
                    o_hi[5] += p_hi * v1.y;
                    o_lo[6] += p_lo * v1.z;
                    o_hi[6] += p_hi * v1.z;
                    o_lo[7] += p_lo * v1.w;
                    o_hi[7] += p_hi * v1.w;
                }
                if DIMENSIONS > 8u {
                    let v2 = stage[at + 2u];
                    o_lo[8] += p_lo * v2.x;
                    o_hi[8] += p_hi * v2.x;
                    o_lo[9] += p_lo * v2.y;
                    o_hi[9] += p_hi * v2.y;
                    o_lo[10] += p_lo * v2.z;
                    o_hi[10] += p_hi * v2.z;
                    o_lo[11] += p_lo * v2.w;
                    o_hi[11] += p_hi * v2.w;
                    let v3 = stage[at + 3u];
                    o_lo[12] += p_lo * v3.x;
                    o_hi[12] += p_hi * v3.x;
                    o_lo[13] += p_lo * v3.y;
                    o_hi[13] += p_hi * v3.y;
                    o_lo[14] += p_lo * v3.z;
                    o_hi[14] += p_hi * v3.z;
                    o_lo[15] += p_lo * v3.w;
                    o_hi[15] += p_hi * v3.w;
                }
            }
        }
    }

    // States of earlier segments, read by every lane of a row before one of them writes the merged one.
    var earlier = array<vec2<f32>, 8>();
    if segment.index > 0u {
        for (var r = 0u; r < 8u; r++) {
            earlier[r] = states[(first_row + min(row_at * 8u + r, rows - 1u)) * Q_HEADS + head];
        }
    }
    storageBarrier();
    // The sums of a row's eight lanes.
    workgroupBarrier();
    stage[row_at * 16u + token_at] = l_lo;
    stage[row_at * 16u + 8u + token_at] = l_hi;
    workgroupBarrier();
    l_lo = vec4(0.0);
    l_hi = vec4(0.0);
    for (var i = 0u; i < 8u; i++) {
        l_lo += stage[row_at * 16u + i];
        l_hi += stage[row_at * 16u + 8u + i];
    }
    // How much of this segment's and of the earlier segments' sums counts, per row: out holds o / l of the latter.
    var mine_lo = vec4(1.0);
    var mine_hi = vec4(1.0);
    var theirs_lo = vec4(0.0);
    var theirs_hi = vec4(0.0);
    if segment.index > 0u {
        let em_lo = vec4(earlier[0].x, earlier[1].x, earlier[2].x, earlier[3].x);
        let em_hi = vec4(earlier[4].x, earlier[5].x, earlier[6].x, earlier[7].x);
        let joint_lo = max(m_lo, em_lo);
        let joint_hi = max(m_hi, em_hi);
        mine_lo = exp(m_lo - joint_lo);
        mine_hi = exp(m_hi - joint_hi);
        theirs_lo = vec4(earlier[0].y, earlier[1].y, earlier[2].y, earlier[3].y) * exp(em_lo - joint_lo);
        theirs_hi = vec4(earlier[4].y, earlier[5].y, earlier[6].y, earlier[7].y) * exp(em_hi - joint_hi);
        m_lo = joint_lo;
        m_hi = joint_hi;
        l_lo = l_lo * mine_lo + theirs_lo;
        l_hi = l_hi * mine_hi + theirs_hi;
    }
    // A segment that holds none of a row's tokens leaves zeros, not 0 / 0.
    let inverse_lo = select(1.0 / l_lo, vec4(0.0), l_lo == vec4(0.0));
    let inverse_hi = select(1.0 / l_hi, vec4(0.0), l_hi == vec4(0.0));
    mine_lo *= inverse_lo;
    mine_hi *= inverse_hi;
    theirs_lo *= inverse_lo;
    theirs_hi *= inverse_hi;
    let to = ((first_row + row_at * 8u) * Q_HEADS + head) * HEAD_DIM + token_at * DIMENSIONS;
    let left = rows - min(rows, row_at * 8u);
    // Constant indices: an accumulator indexed by a loop that is not unrolled would live in memory, not registers.
    put(to, left, o_lo[0], o_hi[0], mine_lo, mine_hi, theirs_lo, theirs_hi);
    put(to + 1u, left, o_lo[1], o_hi[1], mine_lo, mine_hi, theirs_lo, theirs_hi);
    put(to + 2u, left, o_lo[2], o_hi[2], mine_lo, mine_hi, theirs_lo, theirs_hi);
    put(to + 3u, left, o_lo[3], o_hi[3], mine_lo, mine_hi, theirs_lo, theirs_hi);
    if DIMENSIONS > 4u {
        put(to + 4u, left, o_lo[4], o_hi[4], mine_lo, mine_hi, theirs_lo, theirs_hi);
        put(to + 5u, left, o_lo[5], o_hi[5], mine_lo, mine_hi, theirs_lo, theirs_hi);
        put(to + 6u, left, o_lo[6], o_hi[6], mine_lo, mine_hi, theirs_lo, theirs_hi);
        put(to + 7u, left, o_lo[7], o_hi[7], mine_lo, mine_hi, theirs_lo, theirs_hi);
    }
    if DIMENSIONS > 8u {
        put(to + 8u, left, o_lo[8], o_hi[8], mine_lo, mine_hi, theirs_lo, theirs_hi);
        put(to + 9u, left, o_lo[9], o_hi[9], mine_lo, mine_hi, theirs_lo, theirs_hi);
        put(to + 10u, left, o_lo[10], o_hi[10], mine_lo, mine_hi, theirs_lo, theirs_hi);
        put(to + 11u, left, o_lo[11], o_hi[11], mine_lo, mine_hi, theirs_lo, theirs_hi);
        put(to + 12u, left, o_lo[12], o_hi[12], mine_lo, mine_hi, theirs_lo, theirs_hi);
        put(to + 13u, left, o_lo[13], o_hi[13], mine_lo, mine_hi, theirs_lo, theirs_hi);
        put(to + 14u, left, o_lo[14], o_hi[14], mine_lo, mine_hi, theirs_lo, theirs_hi);
        put(to + 15u, left, o_lo[15], o_hi[15], mine_lo, mine_hi, theirs_lo, theirs_hi);
    }
    if segment.count > 1u && token_at == 0u {
        let at = (first_row + row_at * 8u) * Q_HEADS + head;
        for (var r = 0u; r < min(8u, left); r++) {
            let low = vec2(m_lo[r % 4u], l_lo[r % 4u]);
            let high = vec2(m_hi[r % 4u], l_hi[r % 4u]);
            states[at + r * Q_HEADS] = select(low, high, r >= 4u);
        }
    }
}

// Writes one dimension of up to eight rows: this segment's share, and what the earlier ones left.
fn put(
    at: u32,
    rows: u32,
    o_lo: vec4<f32>,
    o_hi: vec4<f32>,
    mine_lo: vec4<f32>,
    mine_hi: vec4<f32>,
    theirs_lo: vec4<f32>,
    theirs_hi: vec4<f32>,
) {
    let low = o_lo * mine_lo;
    let high = o_hi * mine_hi;
    for (var r = 0u; r < min(8u, rows); r++) {
        let to = at + r * Q_HEADS * HEAD_DIM;
        var sum = select(low[r % 4u], high[r % 4u], r >= 4u);
        if segment.index > 0u {
            sum += select(theirs_lo[r % 4u], theirs_hi[r % 4u], r >= 4u) * out[to];
        }
        out[to] = sum;
    }
}

fn stage_keys(to: u32, k0: vec4<f32>, k1: vec4<f32>, k2: vec4<f32>, k3: vec4<f32>) {
    stage[to] = vec4(k0.x, k1.x, k2.x, k3.x);
    stage[to + 8u] = vec4(k0.y, k1.y, k2.y, k3.y);
    stage[to + 16u] = vec4(k0.z, k1.z, k2.z, k3.z);
    stage[to + 24u] = vec4(k0.w, k1.w, k2.w, k3.w);
}
