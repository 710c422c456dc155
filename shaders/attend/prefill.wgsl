// Dense causal attention of many rows with online softmax (FlashAttention-2, arXiv 2307.08691), reading keys and values
// from the cache. A workgroup takes one tile of 64 rows and one query head; each team of its lanes takes 8 rows, each lane
// of a team some tokens' logits and some dimensions of the output, as outer products from workgroup memory, where
// four rows (or tokens) are one vec4. One dispatch a segment: states of earlier segments are read back and merged.
// Grid: (query heads, tiles).
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include <kv>
//!include <causal>
//!include <cap>
//!include lib/tile_place.wgsl

// Lanes of a team. Twice as many for heads of more than 128 dimensions: a lane's registers hold 8 rows x 16 dimensions.
const TEAM: u32 = 8u * ((HEAD_DIM + 127u) / 128u);
const WORKGROUP: u32 = 8u * TEAM;
const LANE_TOKENS: u32 = TILE_TOKENS / TEAM;
const DEPTH: u32 = 16u;
const VECS: u32 = HEAD_DIM / 4u;
// Every TEAM-th vec4 of a row is a lane's. Where VECS is no multiple, the last of some lanes lies past the row's end:
// it is summed like the others, and not written.
const LANE_VECS: u32 = (VECS + TEAM - 1u) / TEAM;
// Tokens of values staged at a time: the power of two that fits into the stage.
const VALUE_TOKENS: u32 = min(TILE_TOKENS, 1u << firstLeadingBit(384u / VECS));
const Q_HEADS: u32 = KV_HEADS * GROUP;
const QUERY_VECS: u32 = ROW_WIDTH / 4u;
const NOTHING: f32 = -1.0e30;
const NOWHERE: u32 = 0xffffffffu;

@group(0) @binding(2) var<storage, read> qkv: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> kv: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> out: array<vec4<f32>>;
// [row][query head]: (m, l), only used between segments
@group(0) @binding(5) var<storage, read_write> states: array<vec2<f32>>;

// Queries [16 dimensions][16 quads of rows] and keys [16][8 quads of tokens]; row maxima [16 quads][TEAM lanes]; values
// [VALUE_TOKENS][VECS].
var<workgroup> stage: array<vec4<f32>, 384>;
// Probabilities [32 tokens][16 quads of rows].
var<workgroup> p_tile: array<vec4<f32>, 512>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = lane_of(local, WORKGROUP);
    let head = group.x;
    let kv_head = head / GROUP;
    let tile_at = step[H_TILES_AT] + group.y * T_WORDS;
    let first_row = step[tile_at + T_FIRST_ROW];
    let rows = step[tile_at + T_ROWS];
    let first_position = row_position(first_row);
    let last_position = first_position + rows - 1u;

    let team = lane / TEAM;
    let member = lane % TEAM;
    // The team's rows: two quads, and what they have in workgroup memory.
    let quad = team * 2u;
    // Column = dimension, of a fixed count, so that constant indices are valid whatever the head; what is not used
    // costs nothing.
    var o_lo = array<mat4x4<f32>, 4>();
    var o_hi = array<mat4x4<f32>, 4>();
    var m_lo = vec4(NOTHING);
    var m_hi = vec4(NOTHING);
    var l_lo = vec4(0.0);
    var l_hi = vec4(0.0);
    // The tokens of each row end behind its own.
    let end_lo = vec4(first_position + team * 8u) + vec4(1u, 2u, 3u, 4u);
    let end_hi = end_lo + 4u;

    let until = tiles_end(last_position);
    for (var tile = tiles_begin(first_position); tile < until; tile += TILE_TOKENS) {
        let place = place_of(first_row, kv_head, tile, last_position);
        if !place.near_here && !place.far_here {
            continue;
        }

        // Column = token.
        var s_lo = mat4x4<f32>();
        var s_hi = mat4x4<f32>();
        for (var d = 0u; d < HEAD_DIM; d += DEPTH) {
            // Stage queries: a quad of rows x a quad of dimensions for each of 64 lanes.
            let stages = WORKGROUP == 64u || lane < 64u;
            let to = lane % 4u * 64u + lane / 4u;
            var q = mat4x4<f32>();
            if stages {
                let row = lane / 4u * 4u;
                let q_at = head * VECS + d / 4u + lane % 4u;
                q = transpose(mat4x4(
                    //!repeat 4 i
                    qkv[(first_row + min(row{+i}, rows - 1u)) * QUERY_VECS + q_at],
                    //!end
                ));
            }
            workgroupBarrier();
            if stages {
                //!repeat 4 i
                stage[to{+16*i}] = q[{i}];
                //!end
            }
            // Stage keys: a quad of tokens x eight dimensions for each of 16 lanes.
            if lane < 16u {
                let token = lane / 2u * 4u;
                let k_at = place_rows(place, token) + token * ROW_VECS + d / 8u + lane % 2u;
                //!repeat 4 i
                let k{i} = kv[k_at{+i*ROW_VECS}];
                //!end
                let k_to = 256u + lane % 2u * 64u + lane / 2u;
                stage_keys(k_to, kv_low(k0), kv_low(k1), kv_low(k2), kv_low(k3));
                stage_keys(k_to + 32u, kv_high(k0), kv_high(k1), kv_high(k2), kv_high(k3));
            }
            workgroupBarrier();
            for (var c = 0u; c < DEPTH; c++) {
                let q_lo = stage[c * 16u + quad];
                let q_hi = stage[c * 16u + quad + 1u];
                var k = stage[256u + c * 8u + member * LANE_TOKENS / 4u];
                if LANE_TOKENS == 2u {
                    // A quad of tokens is two lanes'.
                    k = vec4(select(k.xy, k.zw, member % 2u == 1u), 0.0, 0.0);
                }
                s_lo += outer(q_lo, k);
                s_hi += outer(q_hi, k);
            }
        }

        // Scale, cap and mask; the largest logit of each row, over this lane's tokens and then over the lanes of the team.
        var largest_lo = vec4(NOTHING);
        var largest_hi = vec4(NOTHING);
        let first = member * LANE_TOKENS;
        let tokens = tile_tokens(place, tile, first);
        // Constant indices: FXC assigns to no column that a loop chooses.
        //!repeat 4 t
        if LANE_TOKENS > {t}u {
            s_lo[{t}] = select(vec4(NOTHING), capped4(s_lo[{t}] * SCALE), attends(vec4(tokens[{t}]), end_lo));
            s_hi[{t}] = select(vec4(NOTHING), capped4(s_hi[{t}] * SCALE), attends(vec4(tokens[{t}]), end_hi));
            largest_lo = max(largest_lo, s_lo[{t}]);
            largest_hi = max(largest_hi, s_hi[{t}]);
        }
        //!end
        workgroupBarrier();
        stage[quad * TEAM + member] = largest_lo;
        stage[(quad + 1u) * TEAM + member] = largest_hi;
        workgroupBarrier();
        for (var i = 0u; i < TEAM; i++) {
            largest_lo = max(largest_lo, stage[quad * TEAM + i]);
            largest_hi = max(largest_hi, stage[(quad + 1u) * TEAM + i]);
        }
        let next_lo = max(m_lo, largest_lo);
        let next_hi = max(m_hi, largest_hi);
        let rescale_lo = exp(m_lo - next_lo);
        let rescale_hi = exp(m_hi - next_hi);
        m_lo = next_lo;
        m_hi = next_hi;
        l_lo *= rescale_lo;
        l_hi *= rescale_hi;
        //!repeat 4 t
        if LANE_TOKENS > {t}u {
            let p_lo = select(vec4(0.0), exp(s_lo[{t}] - m_lo), attends(vec4(tokens[{t}]), end_lo));
            let p_hi = select(vec4(0.0), exp(s_hi[{t}] - m_hi), attends(vec4(tokens[{t}]), end_hi));
            l_lo += p_lo;
            l_hi += p_hi;
            p_tile[(first{+t}) * 16u + quad] = p_lo;
            p_tile[(first{+t}) * 16u + quad + 1u] = p_hi;
        }
        //!end
        // All four: the unused ones are removed by the compiler.
        //!repeat 4 i
        o_lo[{i}] = scale_rows(o_lo[{i}], rescale_lo);
        o_hi[{i}] = scale_rows(o_hi[{i}], rescale_hi);
        //!end

        for (var v = 0u; v < TILE_TOKENS; v += VALUE_TOKENS) {
            workgroupBarrier();
            for (var i = lane; i < VALUE_TOKENS * ROW_VECS; i += WORKGROUP) {
                // Tokens past the last one were never written, or by another sequence: 0 * NaN would be NaN.
                let token = v + i / ROW_VECS;
                let written = place_here(place, token) && tile + token <= last_position;
                // A head-block's values follow its keys.
                let value = place_rows(place, token) + (v + $first_value(BLOCK)) * ROW_VECS + i;
                let eight = select(vec4(0u), $values(kv)[value], written);
                stage[i * 2u] = kv_low(eight);
                stage[i * 2u + 1u] = kv_high(eight);
            }
            workgroupBarrier();
            for (var t = 0u; t < VALUE_TOKENS; t++) {
                let p_lo = p_tile[(v + t) * 16u + quad];
                let p_hi = p_tile[(v + t) * 16u + quad + 1u];
                let at = t * VECS + member;
                let v0 = stage[at];
                o_lo[0] += outer(p_lo, v0);
                o_hi[0] += outer(p_hi, v0);
                //!repeat 1..4 i
                if LANE_VECS > {i}u {
                    let v{i} = stage[at{+i*TEAM}];
                    o_lo[{i}] += outer(p_lo, v{i});
                    o_hi[{i}] += outer(p_hi, v{i});
                }
                //!end
            }
        }
    }

    // States of earlier segments, read by every lane of a row before one of them writes the merged one.
    let row = team * 8u;
    let earlier_lo = earlier_states(head, first_row, row, rows);
    let earlier_hi = earlier_states(head, first_row, row + 4u, rows);
    storageBarrier();
    // The sums of a row's lanes.
    workgroupBarrier();
    stage[quad * TEAM + member] = l_lo;
    stage[(quad + 1u) * TEAM + member] = l_hi;
    workgroupBarrier();
    l_lo = vec4(0.0);
    l_hi = vec4(0.0);
    for (var i = 0u; i < TEAM; i++) {
        l_lo += stage[quad * TEAM + i];
        l_hi += stage[(quad + 1u) * TEAM + i];
    }
    let merged_lo = merge_states(m_lo, l_lo, earlier_lo);
    let merged_hi = merge_states(m_hi, l_hi, earlier_hi);
    let left_lo = rows - min(rows, row);
    let left_hi = rows - min(rows, row + 4u);
    let to_lo = ((first_row + row) * Q_HEADS + head) * VECS + member;
    let to_hi = to_lo + 4u * Q_HEADS * VECS;
    // Constant indices: an accumulator indexed by a loop that is not unrolled would live in memory, not registers.
    put(to_lo, left_lo, merged_lo, o_lo[0]);
    put(to_hi, left_hi, merged_hi, o_hi[0]);
    //!repeat 1..4 i
    if owns(member, {i}u) {
        put(to_lo{+i*TEAM}, left_lo, merged_lo, o_lo[{i}]);
        put(to_hi{+i*TEAM}, left_hi, merged_hi, o_hi[{i}]);
    }
    //!end
    if segment.count > 1u && member == 0u {
        put_states(head, first_row + row, left_lo, merged_lo);
        put_states(head, first_row + row + 4u, left_hi, merged_hi);
    }
}

// Positions of up to four of the tile's tokens; of those in another segment one past every row's.
fn tile_tokens(place: Place, tile: u32, first: u32) -> vec4<u32> {
    return select(vec4(NOWHERE), vec4(tile + first) + vec4(0u, 1u, 2u, 3u), place_here(place, first));
}

// Four rows by four columns.
fn outer(rows: vec4<f32>, columns: vec4<f32>) -> mat4x4<f32> {
    return mat4x4(rows * columns.x, rows * columns.y, rows * columns.z, rows * columns.w);
}

fn scale_rows(o: mat4x4<f32>, factors: vec4<f32>) -> mat4x4<f32> {
    return mat4x4(o[0] * factors, o[1] * factors, o[2] * factors, o[3] * factors);
}

fn stage_keys(to: u32, k0: vec4<f32>, k1: vec4<f32>, k2: vec4<f32>, k3: vec4<f32>) {
    let k = transpose(mat4x4(k0, k1, k2, k3));
    //!repeat 4 i
    stage[to{+8*i}] = k[{i}];
    //!end
}

// Whether the vec4 is one of the row's.
fn owns(member: u32, vec: u32) -> bool {
    return (vec + 1u) * TEAM <= VECS || member + vec * TEAM < VECS;
}

// Maxima and sums of four rows.
struct States {
    m: vec4<f32>,
    l: vec4<f32>,
}

// The states of earlier segments, for four rows of the tile.
fn earlier_states(head: u32, first_row: u32, row: u32, rows: u32) -> States {
    if segment.index == 0u {
        return States(vec4(NOTHING), vec4(0.0));
    }
    //!repeat 4 i
    let s{i} = states[(first_row + min(row{+i}, rows - 1u)) * Q_HEADS + head];
    //!end
    return States(vec4(s0.x, s1.x, s2.x, s3.x), vec4(s0.y, s1.y, s2.y, s3.y));
}

// The merged states of four rows, and the factors of this segment's sums and of the earlier segments' outputs.
struct Merged {
    states: States,
    mine: vec4<f32>,
    theirs: vec4<f32>,
}

fn merge_states(m: vec4<f32>, l: vec4<f32>, earlier: States) -> Merged {
    let joint = max(m, earlier.m);
    let mine = exp(m - joint);
    // Out holds o / l of the earlier segments.
    let theirs = earlier.l * exp(earlier.m - joint);
    let sum = l * mine + theirs;
    // A segment that holds none of a row's tokens leaves zeros, not 0 / 0.
    let inverse = select(1.0 / sum, vec4(0.0), sum == vec4(0.0));
    return Merged(States(joint, sum), mine * inverse, theirs * inverse);
}

// Writes four dimensions of up to four rows: this segment's share, and what the earlier ones left.
fn put(to: u32, rows: u32, merged: Merged, o: mat4x4<f32>) {
    let mine = transpose(scale_rows(o, merged.mine));
    for (var r = 0u; r < 4u; r++) {
        if r < rows {
            var sum = mine[r];
            if segment.index > 0u {
                sum += merged.theirs[r] * out[to + r * Q_HEADS * VECS];
            }
            out[to + r * Q_HEADS * VECS] = sum;
        }
    }
}

fn put_states(head: u32, row: u32, rows: u32, merged: Merged) {
    for (var r = 0u; r < 4u; r++) {
        if r < rows {
            states[(row + r) * Q_HEADS + head] = vec2(merged.states.m[r], merged.states.l[r]);
        }
    }
}
