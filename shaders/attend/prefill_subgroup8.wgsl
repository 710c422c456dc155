// The attention of prefill.wgsl for adapters whose subgroups have eight lanes and whose loads are dear: software
// rasterisers, which load lane by lane. A subgroup takes 16 rows of a tile and one query head, two rows a lane; each
// lane loads one key (value) of eight tokens and broadcasts it, so that softmax needs no other lane and nothing lies in
// workgroup memory. One dispatch a segment: states of earlier segments are read back and merged.
// Grid: (query heads, tiles).
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include <kv>
//!include <causal>
//!include <cap>
//!include lib/merge_segment.wgsl

const Q_HEADS: u32 = KV_HEADS * GROUP;
const QUERY_VECS: u32 = ROW_WIDTH / 4u;
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

// Eight dimensions of this lane's two rows: queries or outputs.
struct Eight {
    a_low: vec4<f32>,
    a_high: vec4<f32>,
    b_low: vec4<f32>,
    b_high: vec4<f32>,
}

// Eight dimensions of eight tokens, column = token.
struct Tokens {
    near_low: mat4x4<f32>,
    near_high: mat4x4<f32>,
    far_low: mat4x4<f32>,
    far_high: mat4x4<f32>,
}

@compute @workgroup_size(32)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let head = group.x;
    let kv_head = head / GROUP;
    let tile_at = step[H_TILES_AT] + group.y * T_WORDS;
    let first_row = step[tile_at + T_FIRST_ROW];
    let rows = step[tile_at + T_ROWS];
    let first_position = row_position(first_row);
    let last_position = first_position + rows - 1u;
    let a = lane_of(local, 32u) / 8u * 16u + lane;
    let b = a + 8u;
    let row_a = first_row + min(a, rows - 1u);
    let row_b = first_row + min(b, rows - 1u);
    // The tokens of each row end behind its own.
    let end_a = vec4(row_position(row_a) + 1u);
    let end_b = vec4(row_position(row_b) + 1u);

    // As long as the loops over them, which are then unrolled: an array in memory would be dear.
    var q = array<Eight, ROW_VECS>();
    var o = array<Eight, ROW_VECS>();
    for (var i = 0u; i < ROW_VECS; i++) {
        q[i] = query8(row_a, row_b, head, i);
    }
    var m_a = NOTHING;
    var m_b = NOTHING;
    var l_a = 0.0;
    var l_b = 0.0;
    let near = vec4(0u, 1u, 2u, 3u);

    let begin = max(segment.first_logical * BLOCK, first_attended(first_position)) / 8u * 8u;
    let until = min(last_position + 1u, segment.end_logical * BLOCK);
    for (var tile = begin; tile < until; tile += 8u) {
        let slot = row_block(first_row, tile / BLOCK) - segment.first;
        if slot >= segment.blocks {
            continue;
        }
        // Tokens past the last one were never written, or by another sequence: their place is taken by the last.
        let token = min(tile + lane, last_position) % BLOCK;
        let key = kv_row(slot, kv_head, KEYS, token);
        let value = kv_row(slot, kv_head, VALUES, token);

        var w = Weights();
        for (var i = 0u; i < ROW_VECS; i++) {
            w = add_logits(w, q[i], spread(kv[key + i]));
        }
        w = Weights(capped4(w.a_near), capped4(w.a_far), capped4(w.b_near), capped4(w.b_far));
        let counts_a_near = attends(vec4(tile) + near, end_a);
        let counts_a_far = attends(vec4(tile + 4u) + near, end_a);
        let counts_b_near = attends(vec4(tile) + near, end_b);
        let counts_b_far = attends(vec4(tile + 4u) + near, end_b);
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
        for (var i = 0u; i < ROW_VECS; i++) {
            o[i] = add_values(scale8(o[i], rescale_a, rescale_b), w, spread($values(kv)[value + i]));
        }
    }
    if a < rows {
        let merge = merge_of(row_a * Q_HEADS + head, m_a, l_a);
        for (var i = 0u; i < ROW_VECS; i++) {
            finish((row_a * Q_HEADS + head) * (HEAD_DIM / 4u) + i * 2u, merge, o[i].a_low, o[i].a_high);
        }
    }
    if b < rows {
        let merge = merge_of(row_b * Q_HEADS + head, m_b, l_b);
        for (var i = 0u; i < ROW_VECS; i++) {
            finish((row_b * Q_HEADS + head) * (HEAD_DIM / 4u) + i * 2u, merge, o[i].b_low, o[i].b_high);
        }
    }
}

fn largest(v: vec4<f32>) -> f32 {
    return max(max(v.x, v.y), max(v.z, v.w));
}

fn query8(row_a: u32, row_b: u32, head: u32, i: u32) -> Eight {
    let a = row_a * QUERY_VECS + (head * ROW_VECS + i) * 2u;
    let b = row_b * QUERY_VECS + (head * ROW_VECS + i) * 2u;
    return Eight(qkv[a] * SCALE, qkv[a + 1u] * SCALE, qkv[b] * SCALE, qkv[b + 1u] * SCALE);
}

// The numbers of the eight lanes, one token's each.
fn spread(eight: vec4<u32>) -> Tokens {
    let low = kv_low(eight);
    let high = kv_high(eight);
    return Tokens(
        mat4x4(
            //!repeat 4 i
            subgroupBroadcast(low, {i}u),
            //!end
        ),
        mat4x4(
            //!repeat 4 i
            subgroupBroadcast(high, {i}u),
            //!end
        ),
        mat4x4(
            //!repeat 4 i
            subgroupBroadcast(low, {i+4}u),
            //!end
        ),
        mat4x4(
            //!repeat 4 i
            subgroupBroadcast(high, {i+4}u),
            //!end
        ),
    );
}

// Adds eight dimensions' share of the logits.
fn add_logits(w: Weights, q: Eight, keys: Tokens) -> Weights {
    return Weights(
        w.a_near + (q.a_low * keys.near_low + q.a_high * keys.near_high),
        w.a_far + (q.a_low * keys.far_low + q.a_high * keys.far_high),
        w.b_near + (q.b_low * keys.near_low + q.b_high * keys.near_high),
        w.b_far + (q.b_low * keys.far_low + q.b_high * keys.far_high),
    );
}

fn scale8(o: Eight, a: f32, b: f32) -> Eight {
    return Eight(o.a_low * a, o.a_high * a, o.b_low * b, o.b_high * b);
}

// Adds eight dimensions of the weighted values.
fn add_values(o: Eight, w: Weights, values: Tokens) -> Eight {
    return Eight(
        o.a_low + (values.near_low * w.a_near + values.far_low * w.a_far),
        o.a_high + (values.near_high * w.a_near + values.far_high * w.a_far),
        o.b_low + (values.near_low * w.b_near + values.far_low * w.b_far),
        o.b_high + (values.near_high * w.b_near + values.far_high * w.b_far),
    );
}
