// The attention of prefill.wgsl on matrix units: cooperative matrices of 16 x 16 f16, summed in f32. A workgroup takes one tile
// of 64 rows and one query head, each of its four subgroups 16 rows. Elements of a cooperative matrix cannot be reached
// but through memory, where logits become weights; outputs stay where they are, and are rescaled by way of memory only
// when some row's maximum has grown by more than GROWTH since the last time: its weights then exceed 1, up to 2^8 times.
// Heads have up to 128 dimensions, a multiple of 16: outputs of more do not fit a subgroup's registers.
//
// Range and precision: keys and values are f16 in the cache. A row's query is shifted (f16_scale.wgsl) and rounded to f16,
// 2^-11 of itself; so are weights, which are multiplied by 2^7 before, so that those from 2^-21 of the maximum on are
// normal f16, and 2^15 is the largest. One dispatch a segment: states of earlier segments are read back and merged.
// Grid: (query heads, tiles).
enable f16;
enable wgpu_cooperative_matrix;
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include <kv>
//!include <causal>
//!include <cap>
//!include lib/tile_place.wgsl
//!include lib/merge_segment.wgsl
//!include lib/f16_scale.wgsl

const WORKGROUP: u32 = 128u;
const VECS: u32 = HEAD_DIM / 4u;
const Q_HEADS: u32 = KV_HEADS * GROUP;
const QUERY_VECS: u32 = ROW_WIDTH / 4u;
const NOTHING: f32 = -1.0e30;
// ln(2^8)
const GROWTH: f32 = 5.545177;
const WEIGHT_SCALE: f32 = 128.0;
// From one row of what lies in workgroup memory to the next, in vec4; a little more than what a row holds, so that rows
// begin in different banks.
const STAGE_ROW: u32 = VECS + 2u;
const LOGIT_ROW: u32 = TILE_TOKENS / 4u + 1u;
const WEIGHT_ROW: u32 = TILE_TOKENS / 4u + 2u;

@group(0) @binding(2) var<storage, read> qkv: array<vec4<f32>>;
// Rows of VECS vec4.
@group(0) @binding(3) var<storage, read> kv: array<vec4<f16>>;
@group(0) @binding(4) var<storage, read_write> out: array<vec4<f32>>;
// [row][query head]: (m, l), only used between segments
@group(0) @binding(5) var<storage, read_write> states: array<vec2<f32>>;

// Queries of 64 rows; then keys, and after them values, of a tile's tokens.
var<workgroup> stage: array<vec4<f16>, 64u * STAGE_ROW>;
// [64 rows][tokens], or sixteen dimensions of outputs.
var<workgroup> logits: array<vec4<f32>, 64u * LOGIT_ROW>;
var<workgroup> weights: array<vec4<f16>, 64u * WEIGHT_ROW>;
// Where, past the logits of the first row, a number tells whether the maximum of some row has grown: in a variable of its
// own, a u32, it overlapped the others on an H100 (driver 580).
const GROWN: u32 = LOGIT_ROW - 1u;

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) member: u32,
) {
    let lane = lane_of(local, WORKGROUP);
    let head = group.x;
    let kv_head = head / GROUP;
    let tile_at = step[H_TILES_AT] + group.y * T_WORDS;
    let first_row = step[tile_at + T_FIRST_ROW];
    let rows = step[tile_at + T_ROWS];
    let first_position = row_position(first_row);
    let last_position = first_position + rows - 1u;

    // Two lanes share a row: of its tokens, and of every sixteen dimensions, each has one half.
    let row = subgroup * 16u + member / 2u;
    let half = member % 2u;
    let position = first_position + row;
    let query = (first_row + min(row, rows - 1u)) * QUERY_VECS + head * VECS;
    var largest_bits = 0u;
    for (var i = 0u; i < VECS; i++) {
        let bits = bitcast<vec4<u32>>(qkv[query + i]) & vec4(0x7fffffffu);
        largest_bits = max(largest_bits, max(max(bits.x, bits.y), max(bits.z, bits.w)));
    }
    let shift = f16_shift(bitcast<f32>(largest_bits));
    let shrink = power_of_two(-shift);
    let grow = power_of_two(shift);
    for (var i = half; i < VECS; i += 2u) {
        stage[row * STAGE_ROW + i] = vec4<f16>(qkv[query + i] * shrink);
    }
    workgroupBarrier();
    // Queries and outputs of sixteen dimensions each. They have names: in an array that a loop indexes they could live in
    // memory. What a head does not have costs nothing.
    let q_at = subgroup * 16u * STAGE_ROW;
    //!repeat 8 i
    var q{i}: coop_mat16x16<f16, A>;
    //!end
    q0 = coopLoadT<coop_mat16x16<f16, A>>(&stage[q_at], STAGE_ROW);
    //!repeat 1..8 i
    if HEAD_DIM > {16*i}u {
        q{i} = coopLoadT<coop_mat16x16<f16, A>>(&stage[q_at + {4*i}u], STAGE_ROW);
    }
    //!end
    //!repeat 8 i
    var o{i}: coop_mat16x16<f32, C>;
    //!end
    // The maximum that the row's weights are relative to, and this lane's half of their sum.
    var m = NOTHING;
    var l = 0.0;
    // The places of the subgroup and the lane in workgroup memory.
    let own_logits = subgroup * 16u * LOGIT_ROW;
    let logits_at = row * LOGIT_ROW + half * 4u;
    let outputs_at = row * LOGIT_ROW + half * 2u;
    let own_weights = subgroup * 16u * WEIGHT_ROW;
    let weights_at = row * WEIGHT_ROW + half * 4u;

    // This lane's share of the next tile's keys and values, one vec4 for every sixteen dimensions: they are on their way while
    // a tile is worked on.
    //!repeat 8 i
    var k{i}: vec4<f16>;
    var v{i}: vec4<f16>;
    //!end
    let begin = tiles_begin(first_position);
    let until = tiles_end(last_position);
    var place = place_of(first_row, kv_head, begin, last_position);
    if place.near_here || place.far_here {
        k0 = key_at(place, lane);
        v0 = value_at(place, lane, begin, last_position);
        //!repeat 1..8 i
        if HEAD_DIM > {16*i}u {
            k{i} = key_at(place, {i*WORKGROUP+}lane);
            v{i} = value_at(place, {i*WORKGROUP+}lane, begin, last_position);
        }
        //!end
    }
    for (var tile = begin; tile < until; tile += TILE_TOKENS) {
        let now = place;
        let here = now.near_here || now.far_here;
        if here {
            workgroupBarrier();
            stage_pair(lane, k0, v0);
            //!repeat 1..8 i
            if HEAD_DIM > {16*i}u {
                stage_pair({i*WORKGROUP+}lane, k{i}, v{i});
            }
            //!end
            workgroupBarrier();
        }
        let next = tile + TILE_TOKENS;
        if next < until {
            place = place_of(first_row, kv_head, next, last_position);
            if place.near_here || place.far_here {
                k0 = key_at(place, lane);
                v0 = value_at(place, lane, next, last_position);
                //!repeat 1..8 i
                if HEAD_DIM > {16*i}u {
                    k{i} = key_at(place, {i*WORKGROUP+}lane);
                    v{i} = value_at(place, {i*WORKGROUP+}lane, next, last_position);
                }
                //!end
            }
        }
        if !here {
            continue;
        }

        var near: coop_mat16x16<f32, C>;
        var far: coop_mat16x16<f32, C>;
        near = add_keys(q0, 0u, near);
        far = add_keys(q0, 16u * STAGE_ROW, far);
        //!repeat 1..8 i
        if HEAD_DIM > {16*i}u {
            near = add_keys(q{i}, {4*i}u, near);
            far = add_keys(q{i}, 16u * STAGE_ROW + {4*i}u, far);
        }
        //!end
        coopStoreT(near, &logits[own_logits], LOGIT_ROW);
        coopStoreT(far, &logits[own_logits + 4u], LOGIT_ROW);
        if lane == 0u {
            logits[GROWN].x = 0.0;
        }
        workgroupBarrier();

        // Scale, cap and mask; the row's largest logit; its weights.
        let first = tile + half * 16u;
        let end = select(0u, position + 1u, place_here(now, half * 16u));
        //!repeat 4 i
        let s{i} = masked(logits_at{+i}, grow, first{+4*i}, end);
        //!end
        let s = max(max(s0, s1), max(s2, s3));
        let in_half = max(max(s.x, s.y), max(s.z, s.w));
        let largest = max(in_half, subgroupShuffleXor(in_half, 1u));
        var rescale = 1.0;
        if largest > m + GROWTH {
            rescale = exp(m - largest);
            m = largest;
            l *= rescale;
            logits[GROWN].x = 1.0;
        }
        //!repeat 4 i
        let p{i} = weights_of(s{i}, m, first{+4*i}, end);
        //!end
        l += dot(p0 + p1 + p2 + p3, vec4(1.0));
        //!repeat 4 i
        weights[weights_at{+i}] = vec4<f16>(p{i});
        //!end
        workgroupBarrier();

        if logits[GROWN].x == 1.0 {
            o0 = rescaled(o0, own_logits, outputs_at, rescale);
            //!repeat 1..8 i
            if HEAD_DIM > {16*i}u {
                o{i} = rescaled(o{i}, own_logits, outputs_at, rescale);
            }
            //!end
        }
        let w_near = coopLoadT<coop_mat16x16<f16, A>>(&weights[own_weights], WEIGHT_ROW);
        let w_far = coopLoadT<coop_mat16x16<f16, A>>(&weights[own_weights + 4u], WEIGHT_ROW);
        o0 = add_values(w_near, w_far, 0u, o0);
        //!repeat 1..8 i
        if HEAD_DIM > {16*i}u {
            o{i} = add_values(w_near, w_far, {4*i}u, o{i});
        }
        //!end
    }

    // One of a row's lanes merges it with earlier segments; both write it.
    let sum = (l + subgroupShuffleXor(l, 1u)) / WEIGHT_SCALE;
    var merge = vec2(0.0);
    if half == 0u && row < rows {
        merge = merge_of((first_row + row) * Q_HEADS + head, m, sum);
    }
    merge = subgroupShuffle(merge, member - half) * vec2(1.0 / WEIGHT_SCALE, 1.0);
    let to = ((first_row + row) * Q_HEADS + head) * VECS + half * 2u;
    let writes = row < rows;
    coopStoreT(o0, &logits[own_logits], LOGIT_ROW);
    put(writes, to, merge, outputs_at);
    //!repeat 1..8 i
    if HEAD_DIM > {16*i}u {
        coopStoreT(o{i}, &logits[own_logits], LOGIT_ROW);
        put(writes, to + {4*i}u, merge, outputs_at);
    }
    //!end
}

fn key_at(place: Place, i: u32) -> vec4<f16> {
    return kv[2u * place_rows(place, i / VECS) + i];
}

// Values; zero for tokens past the last one, which were never written, or by another sequence: 0 * NaN would be NaN. A
// head-block's values follow its keys.
fn value_at(place: Place, i: u32, tile: u32, last_position: u32) -> vec4<f16> {
    let token = i / VECS;
    let written = place_here(place, token) && tile + token <= last_position;
    return select(vec4<f16>(), $values(kv)[2u * place_rows(place, token) + $first_value(BLOCK) * VECS + i], written);
}

fn stage_pair(i: u32, key: vec4<f16>, value: vec4<f16>) {
    let to = i / VECS * STAGE_ROW + i % VECS;
    stage[to] = key;
    stage[to + TILE_TOKENS * STAGE_ROW] = value;
}

// Adds sixteen dimensions' share of the logits of sixteen tokens, whose keys begin there.
fn add_keys(q: coop_mat16x16<f16, A>, at: u32, sums: coop_mat16x16<f32, C>) -> coop_mat16x16<f32, C> {
    return coopMultiplyAdd(q, coopLoad<coop_mat16x16<f16, B>>(&stage[at], STAGE_ROW), sums);
}

// Adds sixteen dimensions of the tile's weighted values.
fn add_values(
    near: coop_mat16x16<f16, A>,
    far: coop_mat16x16<f16, A>,
    dimension: u32,
    sums: coop_mat16x16<f32, C>,
) -> coop_mat16x16<f32, C> {
    let at = TILE_TOKENS * STAGE_ROW + dimension;
    let values = coopLoadT<coop_mat16x16<f16, B>>(&stage[at], STAGE_ROW);
    let further = coopLoadT<coop_mat16x16<f16, B>>(&stage[at + 16u * STAGE_ROW], STAGE_ROW);
    return coopMultiplyAdd(far, further, coopMultiplyAdd(near, values, sums));
}

// Logits of four tokens from `first` on, as far as a row attends them whose tokens end there.
fn masked(at: u32, grow: f32, first: u32, end: u32) -> vec4<f32> {
    let tokens = vec4(first) + vec4(0u, 1u, 2u, 3u);
    return select(vec4(NOTHING), capped4(logits[at] * SCALE * grow), attends(tokens, vec4(end)));
}

fn weights_of(s: vec4<f32>, m: f32, first: u32, end: u32) -> vec4<f32> {
    let tokens = vec4(first) + vec4(0u, 1u, 2u, 3u);
    return select(vec4(0.0), exp(s - m) * WEIGHT_SCALE, attends(tokens, vec4(end)));
}

// Outputs of sixteen dimensions, each row multiplied by its lanes' factor.
fn rescaled(o: coop_mat16x16<f32, C>, own: u32, at: u32, factor: f32) -> coop_mat16x16<f32, C> {
    coopStoreT(o, &logits[own], LOGIT_ROW);
    workgroupBarrier();
    logits[at] *= factor;
    logits[at + 1u] *= factor;
    workgroupBarrier();
    let product = coopLoadT<coop_mat16x16<f32, C>>(&logits[own], LOGIT_ROW);
    workgroupBarrier();
    return product;
}

// Writes this lane's eight of sixteen dimensions that the subgroups have just stored.
fn put(writes: bool, to: u32, merge: vec2<f32>, at: u32) {
    workgroupBarrier();
    if writes {
        finish(to, merge, logits[at], logits[at + 1u]);
    }
    workgroupBarrier();
}
