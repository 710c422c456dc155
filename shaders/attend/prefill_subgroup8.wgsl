// The attention of prefill.wgsl for adapters whose subgroups have eight lanes and whose loads are dear: software
// rasterisers, which load lane by lane. A subgroup takes 16 rows of a tile and one query head, two rows a lane; each
// lane loads one key (value) of eight tokens and broadcasts it, so that softmax needs no other lane and nothing lies in
// workgroup memory. One dispatch a segment: states of earlier segments are read back and merged.
// Grid: (query heads, tiles).
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include <kv>

const Q_HEADS: u32 = KV_HEADS * GROUP;
const QKV_VECS: u32 = (Q_HEADS + 2u * KV_HEADS) * HEAD_DIM / 4u;
const NOTHING: f32 = -1.0e30;

@group(0) @binding(1) var<uniform> segment: Segment;
@group(0) @binding(2) var<storage, read> qkv: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> kv: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> out: array<vec4<f32>>;
// [row][query head]: (m, l), only used between segments
@group(0) @binding(5) var<storage, read_write> states: array<vec2<f32>>;

// Logits, then weights, of eight tokens for this lane's two rows.
struct Weights {
    a_near: vec4<f32>,
    a_far: vec4<f32>,
    b_near: vec4<f32>,
    b_far: vec4<f32>,
}

// Outputs of eight dimensions for this lane's two rows.
struct Outputs {
    a_low: vec4<f32>,
    a_high: vec4<f32>,
    b_low: vec4<f32>,
    b_high: vec4<f32>,
}

@compute @workgroup_size(32)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let head = group.x;
    let kv_head = head / GROUP;
    let tile_at = step[H_TILES_AT] + group.y * 2u;
    let first_row = step[tile_at];
    let rows = step[tile_at + 1u];
    let last_position = row_position(first_row) + rows - 1u;
    let a = lane_of(local, 32u) / 8u * 16u + lane;
    let b = a + 8u;
    let row_a = first_row + min(a, rows - 1u);
    let row_b = first_row + min(b, rows - 1u);
    let position_a = row_position(row_a);
    let position_b = row_position(row_b);

    // Of a fixed length, so that constant indices are valid whatever the head; what is not used costs nothing.
    var q_a = array<vec4<f32>, 32>();
    var q_b = array<vec4<f32>, 32>();
    for (var i = 0u; i < HEAD_DIM / 4u; i++) {
        q_a[i] = qkv[row_a * QKV_VECS + head * (HEAD_DIM / 4u) + i] * SCALE;
        q_b[i] = qkv[row_b * QKV_VECS + head * (HEAD_DIM / 4u) + i] * SCALE;
    }
    var o = array<Outputs, 16>();
    var m_a = NOTHING;
    var m_b = NOTHING;
    var l_a = 0.0;
    var l_b = 0.0;
    let near = vec4(0u, 1u, 2u, 3u);

    for (var tile = 0u; tile <= last_position; tile += 8u) {
        let slot = row_block(first_row, tile / BLOCK) - segment.first;
        if slot >= segment.blocks {
            continue;
        }
        // What lies past the last token was never written, or by another sequence: its place is taken by the last.
        let token = min(tile + lane, last_position) % BLOCK;
        let key = kv_row(slot, kv_head, KEYS, token);
        let value = kv_row(slot, kv_head, VALUES, token);

        var w = Weights();
        logits(kv[key + 0u], q_a[0], q_a[1], q_b[0], q_b[1], &w);
        logits(kv[key + 1u], q_a[2], q_a[3], q_b[2], q_b[3], &w);
        logits(kv[key + 2u], q_a[4], q_a[5], q_b[4], q_b[5], &w);
        logits(kv[key + 3u], q_a[6], q_a[7], q_b[6], q_b[7], &w);
        if HEAD_DIM > 32u {
            logits(kv[key + 4u], q_a[8], q_a[9], q_b[8], q_b[9], &w);
            logits(kv[key + 5u], q_a[10], q_a[11], q_b[10], q_b[11], &w);
            logits(kv[key + 6u], q_a[12], q_a[13], q_b[12], q_b[13], &w);
            logits(kv[key + 7u], q_a[14], q_a[15], q_b[14], q_b[15], &w);
        }
        if HEAD_DIM > 64u {
            logits(kv[key + 8u], q_a[16], q_a[17], q_b[16], q_b[17], &w);
            logits(kv[key + 9u], q_a[18], q_a[19], q_b[18], q_b[19], &w);
            logits(kv[key + 10u], q_a[20], q_a[21], q_b[20], q_b[21], &w);
            logits(kv[key + 11u], q_a[22], q_a[23], q_b[22], q_b[23], &w);
            logits(kv[key + 12u], q_a[24], q_a[25], q_b[24], q_b[25], &w);
            logits(kv[key + 13u], q_a[26], q_a[27], q_b[26], q_b[27], &w);
            logits(kv[key + 14u], q_a[28], q_a[29], q_b[28], q_b[29], &w);
            logits(kv[key + 15u], q_a[30], q_a[31], q_b[30], q_b[31], &w);
        }
        let counts_a_near = vec4(tile) + near <= vec4(position_a);
        let counts_a_far = vec4(tile + 4u) + near <= vec4(position_a);
        let counts_b_near = vec4(tile) + near <= vec4(position_b);
        let counts_b_far = vec4(tile + 4u) + near <= vec4(position_b);
        w.a_near = select(vec4(NOTHING), w.a_near, counts_a_near);
        w.a_far = select(vec4(NOTHING), w.a_far, counts_a_far);
        w.b_near = select(vec4(NOTHING), w.b_near, counts_b_near);
        w.b_far = select(vec4(NOTHING), w.b_far, counts_b_far);
        let next_a = max(m_a, largest(max(w.a_near, w.a_far)));
        let next_b = max(m_b, largest(max(w.b_near, w.b_far)));
        let rescale_a = exp(m_a - next_a);
        let rescale_b = exp(m_b - next_b);
        m_a = next_a;
        m_b = next_b;
        w.a_near = select(vec4(0.0), exp(w.a_near - m_a), counts_a_near);
        w.a_far = select(vec4(0.0), exp(w.a_far - m_a), counts_a_far);
        w.b_near = select(vec4(0.0), exp(w.b_near - m_b), counts_b_near);
        w.b_far = select(vec4(0.0), exp(w.b_far - m_b), counts_b_far);
        l_a = l_a * rescale_a + dot(w.a_near + w.a_far, vec4(1.0));
        l_b = l_b * rescale_b + dot(w.b_near + w.b_far, vec4(1.0));
        for (var i = 0u; i < 16u; i++) {
            o[i].a_low *= rescale_a;
            o[i].a_high *= rescale_a;
            o[i].b_low *= rescale_b;
            o[i].b_high *= rescale_b;
        }
        o[0] = weigh(kv[value + 0u], w, o[0]);
        o[1] = weigh(kv[value + 1u], w, o[1]);
        o[2] = weigh(kv[value + 2u], w, o[2]);
        o[3] = weigh(kv[value + 3u], w, o[3]);
        if HEAD_DIM > 32u {
            o[4] = weigh(kv[value + 4u], w, o[4]);
            o[5] = weigh(kv[value + 5u], w, o[5]);
            o[6] = weigh(kv[value + 6u], w, o[6]);
            o[7] = weigh(kv[value + 7u], w, o[7]);
        }
        if HEAD_DIM > 64u {
            o[8] = weigh(kv[value + 8u], w, o[8]);
            o[9] = weigh(kv[value + 9u], w, o[9]);
            o[10] = weigh(kv[value + 10u], w, o[10]);
            o[11] = weigh(kv[value + 11u], w, o[11]);
            o[12] = weigh(kv[value + 12u], w, o[12]);
            o[13] = weigh(kv[value + 13u], w, o[13]);
            o[14] = weigh(kv[value + 14u], w, o[14]);
            o[15] = weigh(kv[value + 15u], w, o[15]);
        }
    }
    if a < rows {
        let merge = merge_of(row_a * Q_HEADS + head, m_a, l_a);
        for (var i = 0u; i < HEAD_DIM / 8u; i++) {
            finish((row_a * Q_HEADS + head) * (HEAD_DIM / 4u) + i * 2u, merge, o[i].a_low, o[i].a_high);
        }
    }
    if b < rows {
        let merge = merge_of(row_b * Q_HEADS + head, m_b, l_b);
        for (var i = 0u; i < HEAD_DIM / 8u; i++) {
            finish((row_b * Q_HEADS + head) * (HEAD_DIM / 4u) + i * 2u, merge, o[i].b_low, o[i].b_high);
        }
    }
}

fn largest(v: vec4<f32>) -> f32 {
    return max(max(v.x, v.y), max(v.z, v.w));
}

// Adds eight dimensions' share of the logits of eight tokens, of which this lane holds one's keys.
fn logits(
    eight: vec4<u32>,
    qa_low: vec4<f32>,
    qa_high: vec4<f32>,
    qb_low: vec4<f32>,
    qb_high: vec4<f32>,
    w: ptr<function, Weights>,
) {
    let low = kv_low(eight);
    let high = kv_high(eight);
    let l0 = subgroupBroadcast(low, 0u);
    let h0 = subgroupBroadcast(high, 0u);
    let l1 = subgroupBroadcast(low, 1u);
    let h1 = subgroupBroadcast(high, 1u);
    let l2 = subgroupBroadcast(low, 2u);
    let h2 = subgroupBroadcast(high, 2u);
    let l3 = subgroupBroadcast(low, 3u);
    let h3 = subgroupBroadcast(high, 3u);
    let l4 = subgroupBroadcast(low, 4u);
    let h4 = subgroupBroadcast(high, 4u);
    let l5 = subgroupBroadcast(low, 5u);
    let h5 = subgroupBroadcast(high, 5u);
    let l6 = subgroupBroadcast(low, 6u);
    let h6 = subgroupBroadcast(high, 6u);
    let l7 = subgroupBroadcast(low, 7u);
    let h7 = subgroupBroadcast(high, 7u);
    (*w).a_near += vec4(
        dot(qa_low, l0) + dot(qa_high, h0),
        dot(qa_low, l1) + dot(qa_high, h1),
        dot(qa_low, l2) + dot(qa_high, h2),
        dot(qa_low, l3) + dot(qa_high, h3),
    );
    (*w).a_far += vec4(
        dot(qa_low, l4) + dot(qa_high, h4),
        dot(qa_low, l5) + dot(qa_high, h5),
        dot(qa_low, l6) + dot(qa_high, h6),
        dot(qa_low, l7) + dot(qa_high, h7),
    );
    (*w).b_near += vec4(
        dot(qb_low, l0) + dot(qb_high, h0),
        dot(qb_low, l1) + dot(qb_high, h1),
        dot(qb_low, l2) + dot(qb_high, h2),
        dot(qb_low, l3) + dot(qb_high, h3),
    );
    (*w).b_far += vec4(
        dot(qb_low, l4) + dot(qb_high, h4),
        dot(qb_low, l5) + dot(qb_high, h5),
        dot(qb_low, l6) + dot(qb_high, h6),
        dot(qb_low, l7) + dot(qb_high, h7),
    );
}

// Adds eight dimensions of eight tokens' weighted values, of which this lane holds one's.
fn weigh(eight: vec4<u32>, w: Weights, before: Outputs) -> Outputs {
    var sums = before;
    let low = kv_low(eight);
    let high = kv_high(eight);
    let l0 = subgroupBroadcast(low, 0u);
    let h0 = subgroupBroadcast(high, 0u);
    let l1 = subgroupBroadcast(low, 1u);
    let h1 = subgroupBroadcast(high, 1u);
    let l2 = subgroupBroadcast(low, 2u);
    let h2 = subgroupBroadcast(high, 2u);
    let l3 = subgroupBroadcast(low, 3u);
    let h3 = subgroupBroadcast(high, 3u);
    let l4 = subgroupBroadcast(low, 4u);
    let h4 = subgroupBroadcast(high, 4u);
    let l5 = subgroupBroadcast(low, 5u);
    let h5 = subgroupBroadcast(high, 5u);
    let l6 = subgroupBroadcast(low, 6u);
    let h6 = subgroupBroadcast(high, 6u);
    let l7 = subgroupBroadcast(low, 7u);
    let h7 = subgroupBroadcast(high, 7u);
    sums.a_low += w.a_near.x * l0 + w.a_near.y * l1 + w.a_near.z * l2 + w.a_near.w * l3
        + w.a_far.x * l4 + w.a_far.y * l5 + w.a_far.z * l6 + w.a_far.w * l7;
    sums.a_high += w.a_near.x * h0 + w.a_near.y * h1 + w.a_near.z * h2 + w.a_near.w * h3
        + w.a_far.x * h4 + w.a_far.y * h5 + w.a_far.z * h6 + w.a_far.w * h7;
    sums.b_low += w.b_near.x * l0 + w.b_near.y * l1 + w.b_near.z * l2 + w.b_near.w * l3
        + w.b_far.x * l4 + w.b_far.y * l5 + w.b_far.z * l6 + w.b_far.w * l7;
    sums.b_high += w.b_near.x * h0 + w.b_near.y * h1 + w.b_near.z * h2 + w.b_near.w * h3
        + w.b_far.x * h4 + w.b_far.y * h5 + w.b_far.z * h6 + w.b_far.w * h7;
    return sums;
}

// How much this segment's sums and what earlier segments left in out (their o / l, with (m, l) in states) count.
fn merge_of(at: u32, m: f32, l: f32) -> vec2<f32> {
    var joint = m;
    var mine = 1.0;
    var theirs = 0.0;
    if segment.index > 0u {
        let state = states[at];
        joint = max(m, state.x);
        mine = exp(m - joint);
        theirs = state.y * exp(state.x - joint);
    }
    let sum = l * mine + theirs;
    if segment.count > 1u {
        states[at] = vec2(joint, sum);
    }
    // A segment that holds none of a row's tokens leaves zeros, not 0 / 0.
    return select(vec2(mine, theirs) / sum, vec2(0.0), sum == 0.0);
}

fn finish(to: u32, merge: vec2<f32>, low: vec4<f32>, high: vec4<f32>) {
    if segment.index == 0u {
        out[to] = low * merge.x;
        out[to + 1u] = high * merge.x;
    } else {
        out[to] = low * merge.x + out[to] * merge.y;
        out[to + 1u] = high * merge.x + out[to + 1u] * merge.y;
    }
}
