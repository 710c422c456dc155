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
    let tile_at = step[H_TILES_AT] + group.y * 2u;
    let first_row = step[tile_at];
    let rows = step[tile_at + 1u];
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
    var q0: coop_mat16x16<f16, A>;
    var q1: coop_mat16x16<f16, A>;
    var q2: coop_mat16x16<f16, A>;
    var q3: coop_mat16x16<f16, A>;
    var q4: coop_mat16x16<f16, A>;
    var q5: coop_mat16x16<f16, A>;
    var q6: coop_mat16x16<f16, A>;
    var q7: coop_mat16x16<f16, A>;
    q0 = coopLoadT<coop_mat16x16<f16, A>>(&stage[q_at], STAGE_ROW);
    if HEAD_DIM > 16u {
        q1 = coopLoadT<coop_mat16x16<f16, A>>(&stage[q_at + 4u], STAGE_ROW);
    }
    if HEAD_DIM > 32u {
        q2 = coopLoadT<coop_mat16x16<f16, A>>(&stage[q_at + 8u], STAGE_ROW);
    }
    if HEAD_DIM > 48u {
        q3 = coopLoadT<coop_mat16x16<f16, A>>(&stage[q_at + 12u], STAGE_ROW);
    }
    if HEAD_DIM > 64u {
        q4 = coopLoadT<coop_mat16x16<f16, A>>(&stage[q_at + 16u], STAGE_ROW);
    }
    if HEAD_DIM > 80u {
        q5 = coopLoadT<coop_mat16x16<f16, A>>(&stage[q_at + 20u], STAGE_ROW);
    }
    if HEAD_DIM > 96u {
        q6 = coopLoadT<coop_mat16x16<f16, A>>(&stage[q_at + 24u], STAGE_ROW);
    }
    if HEAD_DIM > 112u {
        q7 = coopLoadT<coop_mat16x16<f16, A>>(&stage[q_at + 28u], STAGE_ROW);
    }
    var o0: coop_mat16x16<f32, C>;
    var o1: coop_mat16x16<f32, C>;
    var o2: coop_mat16x16<f32, C>;
    var o3: coop_mat16x16<f32, C>;
    var o4: coop_mat16x16<f32, C>;
    var o5: coop_mat16x16<f32, C>;
    var o6: coop_mat16x16<f32, C>;
    var o7: coop_mat16x16<f32, C>;
    // What the row's weights are relative to, and this lane's half of their sum.
    var m = NOTHING;
    var l = 0.0;
    // What the subgroup and the lane have in workgroup memory.
    let own_logits = subgroup * 16u * LOGIT_ROW;
    let logits_at = row * LOGIT_ROW + half * 4u;
    let outputs_at = row * LOGIT_ROW + half * 2u;
    let own_weights = subgroup * 16u * WEIGHT_ROW;
    let weights_at = row * WEIGHT_ROW + half * 4u;

    // This lane's share of the next tile's keys and values, one vec4 for every sixteen dimensions: they are on their way while
    // a tile is worked on.
    var k0: vec4<f16>;
    var v0: vec4<f16>;
    var k1: vec4<f16>;
    var v1: vec4<f16>;
    var k2: vec4<f16>;
    var v2: vec4<f16>;
    var k3: vec4<f16>;
    var v3: vec4<f16>;
    var k4: vec4<f16>;
    var v4: vec4<f16>;
    var k5: vec4<f16>;
    var v5: vec4<f16>;
    var k6: vec4<f16>;
    var v6: vec4<f16>;
    var k7: vec4<f16>;
    var v7: vec4<f16>;
    let begin = tiles_begin();
    let until = tiles_end(last_position);
    var place = place_of(first_row, kv_head, begin, last_position);
    if place.near_here || place.far_here {
        k0 = key_at(place, lane);
        v0 = value_at(place, lane, begin, last_position);
        if HEAD_DIM > 16u {
            k1 = key_at(place, WORKGROUP + lane);
            v1 = value_at(place, WORKGROUP + lane, begin, last_position);
        }
        if HEAD_DIM > 32u {
            k2 = key_at(place, 2u * WORKGROUP + lane);
            v2 = value_at(place, 2u * WORKGROUP + lane, begin, last_position);
        }
        if HEAD_DIM > 48u {
            k3 = key_at(place, 3u * WORKGROUP + lane);
            v3 = value_at(place, 3u * WORKGROUP + lane, begin, last_position);
        }
        if HEAD_DIM > 64u {
            k4 = key_at(place, 4u * WORKGROUP + lane);
            v4 = value_at(place, 4u * WORKGROUP + lane, begin, last_position);
        }
        if HEAD_DIM > 80u {
            k5 = key_at(place, 5u * WORKGROUP + lane);
            v5 = value_at(place, 5u * WORKGROUP + lane, begin, last_position);
        }
        if HEAD_DIM > 96u {
            k6 = key_at(place, 6u * WORKGROUP + lane);
            v6 = value_at(place, 6u * WORKGROUP + lane, begin, last_position);
        }
        if HEAD_DIM > 112u {
            k7 = key_at(place, 7u * WORKGROUP + lane);
            v7 = value_at(place, 7u * WORKGROUP + lane, begin, last_position);
        }
    }
    for (var tile = begin; tile < until; tile += TILE_TOKENS) {
        let now = place;
        let here = now.near_here || now.far_here;
        if here {
            workgroupBarrier();
            stage_pair(lane, k0, v0);
            if HEAD_DIM > 16u {
                stage_pair(WORKGROUP + lane, k1, v1);
            }
            if HEAD_DIM > 32u {
                stage_pair(2u * WORKGROUP + lane, k2, v2);
            }
            if HEAD_DIM > 48u {
                stage_pair(3u * WORKGROUP + lane, k3, v3);
            }
            if HEAD_DIM > 64u {
                stage_pair(4u * WORKGROUP + lane, k4, v4);
            }
            if HEAD_DIM > 80u {
                stage_pair(5u * WORKGROUP + lane, k5, v5);
            }
            if HEAD_DIM > 96u {
                stage_pair(6u * WORKGROUP + lane, k6, v6);
            }
            if HEAD_DIM > 112u {
                stage_pair(7u * WORKGROUP + lane, k7, v7);
            }
            workgroupBarrier();
        }
        let next = tile + TILE_TOKENS;
        if next < until {
            place = place_of(first_row, kv_head, next, last_position);
            if place.near_here || place.far_here {
                k0 = key_at(place, lane);
                v0 = value_at(place, lane, next, last_position);
                if HEAD_DIM > 16u {
                    k1 = key_at(place, WORKGROUP + lane);
                    v1 = value_at(place, WORKGROUP + lane, next, last_position);
                }
                if HEAD_DIM > 32u {
                    k2 = key_at(place, 2u * WORKGROUP + lane);
                    v2 = value_at(place, 2u * WORKGROUP + lane, next, last_position);
                }
                if HEAD_DIM > 48u {
                    k3 = key_at(place, 3u * WORKGROUP + lane);
                    v3 = value_at(place, 3u * WORKGROUP + lane, next, last_position);
                }
                if HEAD_DIM > 64u {
                    k4 = key_at(place, 4u * WORKGROUP + lane);
                    v4 = value_at(place, 4u * WORKGROUP + lane, next, last_position);
                }
                if HEAD_DIM > 80u {
                    k5 = key_at(place, 5u * WORKGROUP + lane);
                    v5 = value_at(place, 5u * WORKGROUP + lane, next, last_position);
                }
                if HEAD_DIM > 96u {
                    k6 = key_at(place, 6u * WORKGROUP + lane);
                    v6 = value_at(place, 6u * WORKGROUP + lane, next, last_position);
                }
                if HEAD_DIM > 112u {
                    k7 = key_at(place, 7u * WORKGROUP + lane);
                    v7 = value_at(place, 7u * WORKGROUP + lane, next, last_position);
                }
            }
        }
        if !here {
            continue;
        }

        var near: coop_mat16x16<f32, C>;
        var far: coop_mat16x16<f32, C>;
        near = add_keys(q0, 0u, near);
        far = add_keys(q0, 16u * STAGE_ROW, far);
        if HEAD_DIM > 16u {
            near = add_keys(q1, 4u, near);
            far = add_keys(q1, 16u * STAGE_ROW + 4u, far);
        }
        if HEAD_DIM > 32u {
            near = add_keys(q2, 8u, near);
            far = add_keys(q2, 16u * STAGE_ROW + 8u, far);
        }
        if HEAD_DIM > 48u {
            near = add_keys(q3, 12u, near);
            far = add_keys(q3, 16u * STAGE_ROW + 12u, far);
        }
        if HEAD_DIM > 64u {
            near = add_keys(q4, 16u, near);
            far = add_keys(q4, 16u * STAGE_ROW + 16u, far);
        }
        if HEAD_DIM > 80u {
            near = add_keys(q5, 20u, near);
            far = add_keys(q5, 16u * STAGE_ROW + 20u, far);
        }
        if HEAD_DIM > 96u {
            near = add_keys(q6, 24u, near);
            far = add_keys(q6, 16u * STAGE_ROW + 24u, far);
        }
        if HEAD_DIM > 112u {
            near = add_keys(q7, 28u, near);
            far = add_keys(q7, 16u * STAGE_ROW + 28u, far);
        }
        coopStoreT(near, &logits[own_logits], LOGIT_ROW);
        coopStoreT(far, &logits[own_logits + 4u], LOGIT_ROW);
        if lane == 0u {
            logits[GROWN].x = 0.0;
        }
        workgroupBarrier();

        // Scale and mask; the row's largest logit; its weights.
        let first = tile + half * 16u;
        let end = select(0u, position + 1u, place_here(now, half * 16u));
        let s0 = masked(logits_at, grow, first, end);
        let s1 = masked(logits_at + 1u, grow, first + 4u, end);
        let s2 = masked(logits_at + 2u, grow, first + 8u, end);
        let s3 = masked(logits_at + 3u, grow, first + 12u, end);
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
        let p0 = weights_of(s0, m, first, end);
        let p1 = weights_of(s1, m, first + 4u, end);
        let p2 = weights_of(s2, m, first + 8u, end);
        let p3 = weights_of(s3, m, first + 12u, end);
        l += dot(p0 + p1 + p2 + p3, vec4(1.0));
        weights[weights_at] = vec4<f16>(p0);
        weights[weights_at + 1u] = vec4<f16>(p1);
        weights[weights_at + 2u] = vec4<f16>(p2);
        weights[weights_at + 3u] = vec4<f16>(p3);
        workgroupBarrier();

        if logits[GROWN].x == 1.0 {
            o0 = rescaled(o0, own_logits, outputs_at, rescale);
            if HEAD_DIM > 16u {
                o1 = rescaled(o1, own_logits, outputs_at, rescale);
            }
            if HEAD_DIM > 32u {
                o2 = rescaled(o2, own_logits, outputs_at, rescale);
            }
            if HEAD_DIM > 48u {
                o3 = rescaled(o3, own_logits, outputs_at, rescale);
            }
            if HEAD_DIM > 64u {
                o4 = rescaled(o4, own_logits, outputs_at, rescale);
            }
            if HEAD_DIM > 80u {
                o5 = rescaled(o5, own_logits, outputs_at, rescale);
            }
            if HEAD_DIM > 96u {
                o6 = rescaled(o6, own_logits, outputs_at, rescale);
            }
            if HEAD_DIM > 112u {
                o7 = rescaled(o7, own_logits, outputs_at, rescale);
            }
        }
        let w_near = coopLoadT<coop_mat16x16<f16, A>>(&weights[own_weights], WEIGHT_ROW);
        let w_far = coopLoadT<coop_mat16x16<f16, A>>(&weights[own_weights + 4u], WEIGHT_ROW);
        o0 = add_values(w_near, w_far, 0u, o0);
        if HEAD_DIM > 16u {
            o1 = add_values(w_near, w_far, 4u, o1);
        }
        if HEAD_DIM > 32u {
            o2 = add_values(w_near, w_far, 8u, o2);
        }
        if HEAD_DIM > 48u {
            o3 = add_values(w_near, w_far, 12u, o3);
        }
        if HEAD_DIM > 64u {
            o4 = add_values(w_near, w_far, 16u, o4);
        }
        if HEAD_DIM > 80u {
            o5 = add_values(w_near, w_far, 20u, o5);
        }
        if HEAD_DIM > 96u {
            o6 = add_values(w_near, w_far, 24u, o6);
        }
        if HEAD_DIM > 112u {
            o7 = add_values(w_near, w_far, 28u, o7);
        }
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
    if HEAD_DIM > 16u {
        coopStoreT(o1, &logits[own_logits], LOGIT_ROW);
        put(writes, to + 4u, merge, outputs_at);
    }
    if HEAD_DIM > 32u {
        coopStoreT(o2, &logits[own_logits], LOGIT_ROW);
        put(writes, to + 8u, merge, outputs_at);
    }
    if HEAD_DIM > 48u {
        coopStoreT(o3, &logits[own_logits], LOGIT_ROW);
        put(writes, to + 12u, merge, outputs_at);
    }
    if HEAD_DIM > 64u {
        coopStoreT(o4, &logits[own_logits], LOGIT_ROW);
        put(writes, to + 16u, merge, outputs_at);
    }
    if HEAD_DIM > 80u {
        coopStoreT(o5, &logits[own_logits], LOGIT_ROW);
        put(writes, to + 20u, merge, outputs_at);
    }
    if HEAD_DIM > 96u {
        coopStoreT(o6, &logits[own_logits], LOGIT_ROW);
        put(writes, to + 24u, merge, outputs_at);
    }
    if HEAD_DIM > 112u {
        coopStoreT(o7, &logits[own_logits], LOGIT_ROW);
        put(writes, to + 28u, merge, outputs_at);
    }
}

fn key_at(place: Place, i: u32) -> vec4<f16> {
    return kv[2u * place_rows(place, i / VECS) + i];
}

// What lies past the last token was never written, or by another sequence: 0 * NaN would be NaN. A head-block's values follow
// its keys.
fn value_at(place: Place, i: u32, tile: u32, last_position: u32) -> vec4<f16> {
    let token = i / VECS;
    let written = place_here(place, token) && tile + token <= last_position;
    return select(vec4<f16>(), kv[2u * place_rows(place, token) + BLOCK * VECS + i], written);
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

// Logits of four tokens from `first` on, as far as they are before `end`.
fn masked(at: u32, grow: f32, first: u32, end: u32) -> vec4<f32> {
    let tokens = vec4(first) + vec4(0u, 1u, 2u, 3u);
    return select(vec4(NOTHING), logits[at] * SCALE * grow, tokens < vec4(end));
}

fn weights_of(s: vec4<f32>, m: f32, first: u32, end: u32) -> vec4<f32> {
    let tokens = vec4(first) + vec4(0u, 1u, 2u, 3u);
    return select(vec4(0.0), exp(s - m) * WEIGHT_SCALE, tokens < vec4(end));
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
