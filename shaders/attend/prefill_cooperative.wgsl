// The attention of prefill.wgsl on matrix units: cooperative matrices of 16 x 16 f16, summed in f32. A workgroup takes one tile
// of 64 rows and one query head, and 32 tokens at a time. Two subgroups share 32 rows, or sixteen where a head has more than 128
// dimensions, of which queries and outputs of more rows do not fit their registers: each makes the logits of half of the tokens,
// and sums half of the dimensions of outputs.
//
// Elements of a cooperative matrix cannot be reached but through memory, where logits become weights; outputs stay where
// they are, and are rescaled by way of memory only when some row's maximum has grown by more than GROWTH since the last
// time: its weights then exceed 1, up to 2^8 times. Where logits become weights, this tile's values and the next one's keys take the
// places of those that all have multiplied.
//
// A multiprocessor of an H200 takes two workgroups with 24 KiB of workgroup memory each, and one with more. So heads of up to 128
// dimensions have 24 KiB at most: there keys and values of a tile take turns in one place (TAKE_TURNS), which costs two barriers.
//
// Range and precision: keys and values are f16 in the cache. A row's query is shifted (f16_scale.wgsl) and rounded to f16,
// 2^-11 of itself; so are weights, which are multiplied by 2^7 before, so that those from 2^-21 of the maximum on are
// normal f16, and 2^15 is the largest. One dispatch a segment: states of earlier segments are read back and merged.
// Heads have up to 256 dimensions, a multiple of 16. Grid: (query heads, tiles).
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

const ROWS: u32 = 64u;
// Sixteens of rows that a subgroup has: what it loads of keys and values it multiplies with each of them.
const BANDS: u32 = 2u - (HEAD_DIM - 1u) / 128u;
const SUBGROUPS: u32 = ROWS / 16u / BANDS * 2u;
const WORKGROUP: u32 = 32u * SUBGROUPS;
const VECS: u32 = HEAD_DIM / 4u;
const SIXTEENS: u32 = HEAD_DIM / 16u;
// Of dimensions of outputs, a subgroup's own.
const OWN_SIXTEENS: u32 = (SIXTEENS + 1u) / 2u;
// Keys, and values, of a tile.
const TILE_VECS: u32 = TILE_TOKENS * VECS;
// Lanes that share a row where logits become weights, and the logits of each.
const ROW_LANES: u32 = WORKGROUP / ROWS;
const LANE_VECS: u32 = TILE_TOKENS / 4u / ROW_LANES;
const Q_HEADS: u32 = KV_HEADS * GROUP;
const QUERY_VECS: u32 = ROW_WIDTH / 4u;
const NOTHING: f32 = -1.0e30;
// ln(2^8)
const GROWTH: f32 = 5.545177;
const LOG2_E: f32 = 1.442695;
// Weights are multiplied by 2 to the power of this.
const WEIGHT_SHIFT: f32 = 7.0;
const WEIGHT_SCALE: f32 = 128.0;
// From one row of what lies in workgroup memory to the next, in vec4; a little more than what a row holds, so that rows
// begin in different banks.
const STAGE_ROW: u32 = VECS + 2u;
const LOGIT_ROW: u32 = TILE_TOKENS / 4u + 1u;
const WEIGHT_ROW: u32 = TILE_TOKENS / 4u + 2u;
// Up to 64 dimensions fit without, and more than 128 do not even so.
const TAKE_TURNS: bool = HEAD_DIM > 64u && HEAD_DIM <= 128u;
const VALUES_AT: u32 = TILE_TOKENS * STAGE_ROW * (1u - u32(TAKE_TURNS));
// From the first sixteen rows' weights to the others'.
const LOWER: u32 = 16u * WEIGHT_ROW * (BANDS - 1u);
// Behind a row's logits: by what its outputs are multiplied.
const FACTOR: u32 = LOGIT_ROW - 1u;
// Behind the first row's weights: whether the maximum of some row has grown, in turn for one tile and the next.
const GROWN: u32 = WEIGHT_ROW - 2u;

@group(0) @binding(2) var<storage, read> qkv: array<vec4<f32>>;
// Rows of VECS vec4.
@group(0) @binding(3) var<storage, read> kv: array<vec4<f16>>;
@group(0) @binding(4) var<storage, read_write> out: array<vec4<f32>>;
// [row][query head]: (m, l), only used between segments
@group(0) @binding(5) var<storage, read_write> states: array<vec2<f32>>;

// Keys of a tile, and values: in the same place where they take turns.
var<workgroup> stage: array<vec4<f16>, VALUES_AT + TILE_TOKENS * STAGE_ROW>;
// [64 rows][tokens], or sixteen dimensions of outputs.
var<workgroup> logits: array<vec4<f32>, ROWS * LOGIT_ROW>;
// Likewise, or 32 dimensions of queries.
var<workgroup> weights: array<vec4<f16>, ROWS * WEIGHT_ROW>;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(subgroup_id) number: u32,
    @builtin(subgroup_invocation_id) member: u32,
) {
    // Reversed, subgroups change places; their lanes stay in order, since they shuffle.
    let subgroup = lane_of(number, SUBGROUPS);
    let lane = subgroup * 32u + member;
    let head = group.x;
    let kv_head = head / GROUP;
    let tile_at = step[H_TILES_AT] + group.y * T_WORDS;
    let first_row = step[tile_at + T_FIRST_ROW];
    let rows = step[tile_at + T_ROWS];
    let first_position = row_position(first_row);
    let last_position = first_position + rows - 1u;
    // The subgroup's rows, and which half of tokens and of dimensions it has.
    let own_rows = subgroup / 2u * BANDS * 16u;
    let side = subgroup % 2u;
    // The lane's row, and its part of it.
    let row = lane / ROW_LANES;
    let part = lane % ROW_LANES;
    let position = first_position + row;

    let query = (first_row + min(row, rows - 1u)) * QUERY_VECS + head * VECS;
    var bits = vec4(0u);
    for (var i = part; i < VECS; i += ROW_LANES) {
        bits = max(bits, bitcast<vec4<u32>>(qkv[query + i]) & vec4(0x7fffffffu));
    }
    var largest_bits = max(max(bits.x, bits.y), max(bits.z, bits.w));
    for (var i = 1u; i < ROW_LANES; i *= 2u) {
        largest_bits = max(largest_bits, subgroupShuffleXor(largest_bits, i));
    }
    let shift = f16_shift(bitcast<f32>(largest_bits));
    let shrink = power_of_two(-shift);
    let scale = power_of_two(shift) * SCALE;
    // Queries and outputs of sixteen dimensions each, of the first sixteen rows and of the others. They have names: in an array that a
    // loop indexes they could live in memory. What a head does not have costs nothing.
    let own_weights = own_rows * WEIGHT_ROW;
    //!repeat 8 i
    var q{2*i}: coop_mat16x16<f16, A>;
    var q{2*i+1}: coop_mat16x16<f16, A>;
    var r{2*i}: coop_mat16x16<f16, A>;
    var r{2*i+1}: coop_mat16x16<f16, A>;
    if HEAD_DIM > {32*i}u {
        for (var vec = part; vec < 8u; vec += ROW_LANES) {
            weights[row * WEIGHT_ROW + vec] = vec4<f16>(qkv[query + min({8*i}u + vec, VECS - 1u)] * shrink);
        }
        workgroupBarrier();
        q{2*i} = coopLoadT<coop_mat16x16<f16, A>>(&weights[own_weights], WEIGHT_ROW);
        q{2*i+1} = coopLoadT<coop_mat16x16<f16, A>>(&weights[own_weights + 4u], WEIGHT_ROW);
        if BANDS == 2u {
            r{2*i} = coopLoadT<coop_mat16x16<f16, A>>(&weights[own_weights + 16u * WEIGHT_ROW], WEIGHT_ROW);
            r{2*i+1} = coopLoadT<coop_mat16x16<f16, A>>(&weights[own_weights + 16u * WEIGHT_ROW + 4u], WEIGHT_ROW);
        }
        workgroupBarrier();
    }
    //!end
    //!repeat 8 i
    var o{i}: coop_mat16x16<f32, C>;
    var u{i}: coop_mat16x16<f32, C>;
    //!end
    // The maximum that the row's weights are relative to, and this lane's share of their sum.
    var m = NOTHING;
    var l = 0.0;
    // The places of the subgroup and the lane in workgroup memory.
    let own_logits = own_rows * LOGIT_ROW + side * 4u;
    let own_keys = side * 16u * STAGE_ROW;
    let logits_at = row * LOGIT_ROW + part * LANE_VECS;
    let weights_at = row * WEIGHT_ROW + part * LANE_VECS;

    // This lane's share of a tile's values and of the next one's keys: they are on their way while tiles are multiplied.
    //!repeat 8 i
    var k{i}: vec4<f16>;
    var v{i}: vec4<f16>;
    //!end
    let walk = Walk(first_row, kv_head, tiles_end(last_position), last_position);
    let begin = tiles_begin(first_position);
    var now = next_tile(walk, begin, blocks_ahead(walk, begin));
    //!repeat 8 i
    if TILE_VECS > {i}u * WORKGROUP {
        stage_key(lane{+i*WORKGROUP}, key_at(now.place, lane{+i*WORKGROUP}));
    }
    //!end
    var next = next_tile(walk, now.first + TILE_TOKENS, blocks_ahead(walk, now.first + TILE_TOKENS));
    var ahead = blocks_ahead(walk, next.first + TILE_TOKENS);
    //!repeat 8 i
    if TILE_VECS > {i}u * WORKGROUP {
        v{i} = value_at(now.place, lane{+i*WORKGROUP});
        k{i} = key_at(next.place, lane{+i*WORKGROUP});
    }
    //!end
    if lane == 0u {
        weights[GROWN] = vec4<f16>();
        weights[GROWN + 1u] = vec4<f16>();
    }
    workgroupBarrier();
    var turn = 0u;
    while now.first < walk.until {
        var upper: coop_mat16x16<f32, C>;
        var lower: coop_mat16x16<f32, C>;
        //!repeat 16 i
        if HEAD_DIM > {16*i}u {
            let keys = coopLoad<coop_mat16x16<f16, B>>(&stage[own_keys + {4*i}u], STAGE_ROW);
            upper = coopMultiplyAdd(q{i}, keys, upper);
            if BANDS == 2u {
                lower = coopMultiplyAdd(r{i}, keys, lower);
            }
        }
        //!end
        coopStoreT(upper, &logits[own_logits], LOGIT_ROW);
        if BANDS == 2u {
            coopStoreT(lower, &logits[own_logits + 16u * LOGIT_ROW], LOGIT_ROW);
        }
        workgroupBarrier();

        //!repeat 8 i
        if TILE_VECS > {i}u * WORKGROUP {
            stage_value(lane{+i*WORKGROUP}, v{i}, now, last_position);
            if !TAKE_TURNS {
                stage_key(lane{+i*WORKGROUP}, k{i});
            }
        }
        //!end
        // Scale, cap and mask; the row's largest logit; its weights.
        let first = now.first + part * LANE_VECS * 4u;
        let end = select(0u, position + 1u, place_here(now.place, part * LANE_VECS * 4u));
        let is_whole = now.place.near_here && now.place.far_here
            && now.first + TILE_TOKENS <= first_position + 1u && first_attended(last_position) <= now.first;
        var s = vec4(NOTHING);
        //!repeat 4 i
        var s{i}: vec4<f32>;
        if LANE_VECS > {i}u {
            s{i} = capped4(logits[logits_at{+i}] * scale);
            if !is_whole {
                s{i} = select(vec4(NOTHING), s{i}, attends(vec4(first{+4*i}) + vec4(0u, 1u, 2u, 3u), vec4(end)));
            }
            s = max(s, s{i});
        }
        //!end
        var largest = max(max(s.x, s.y), max(s.z, s.w));
        for (var i = 1u; i < ROW_LANES; i *= 2u) {
            largest = max(largest, subgroupShuffleXor(largest, i));
        }
        var factor = 1.0;
        if largest > m + GROWTH {
            factor = exp(m - largest);
            l *= factor;
            // Before the first token outputs are zero.
            if m != NOTHING {
                weights[GROWN + turn] = vec4<f16>(1.0);
            }
            m = largest;
        }
        if part == 0u {
            logits[row * LOGIT_ROW + FACTOR] = vec4(factor);
        }
        var sum = vec4(0.0);
        //!repeat 4 i
        if LANE_VECS > {i}u {
            var p = exp2((s{i} - m) * LOG2_E + WEIGHT_SHIFT);
            if !is_whole {
                p = select(vec4(0.0), p, s{i} != vec4(NOTHING));
            }
            weights[weights_at{+i}] = vec4<f16>(p);
            sum += p;
        }
        //!end
        l += dot(sum, vec4(1.0));
        if lane == 0u {
            weights[GROWN + 1u - turn] = vec4<f16>();
        }
        let after = next_tile(walk, next.first + TILE_TOKENS, ahead);
        ahead = blocks_ahead(walk, after.first + TILE_TOKENS);
        //!repeat 8 i
        if TILE_VECS > {i}u * WORKGROUP {
            v{i} = value_at(next.place, lane{+i*WORKGROUP});
            if !TAKE_TURNS {
                k{i} = key_at(after.place, lane{+i*WORKGROUP});
            }
        }
        //!end
        workgroupBarrier();

        if weights[GROWN + turn].x == 1.0 {
            //!repeat 8 i
            if OWN_SIXTEENS > {i}u {
                o{i} = rescaled(o{i}, own_rows, side, member);
                if BANDS == 2u {
                    u{i} = rescaled(u{i}, own_rows + 16u, side, member);
                }
            }
            //!end
        }
        let near_upper = coopLoadT<coop_mat16x16<f16, A>>(&weights[own_weights], WEIGHT_ROW);
        let far_upper = coopLoadT<coop_mat16x16<f16, A>>(&weights[own_weights + 4u], WEIGHT_ROW);
        let near_lower = coopLoadT<coop_mat16x16<f16, A>>(&weights[own_weights + LOWER], WEIGHT_ROW);
        let far_lower = coopLoadT<coop_mat16x16<f16, A>>(&weights[own_weights + LOWER + 4u], WEIGHT_ROW);
        //!repeat 8 i
        if OWN_SIXTEENS > {i}u {
            let at = VALUES_AT + own_sixteen(side, {i}u) * 4u;
            let near = coopLoadT<coop_mat16x16<f16, B>>(&stage[at], STAGE_ROW);
            let far = coopLoadT<coop_mat16x16<f16, B>>(&stage[at + 16u * STAGE_ROW], STAGE_ROW);
            o{i} = coopMultiplyAdd(far_upper, far, coopMultiplyAdd(near_upper, near, o{i}));
            if BANDS == 2u {
                u{i} = coopMultiplyAdd(far_lower, far, coopMultiplyAdd(near_lower, near, u{i}));
            }
        }
        //!end
        if TAKE_TURNS {
            workgroupBarrier();
            //!repeat 8 i
            if TILE_VECS > {i}u * WORKGROUP {
                stage_key(lane{+i*WORKGROUP}, k{i});
                k{i} = key_at(after.place, lane{+i*WORKGROUP});
            }
            //!end
            workgroupBarrier();
        }
        now = next;
        next = after;
        turn = 1u - turn;
    }

    // One of a row's lanes merges it with earlier segments.
    for (var i = 1u; i < ROW_LANES; i *= 2u) {
        l += subgroupShuffleXor(l, i);
    }
    if part == 0u && row < rows {
        let merge = merge_of((first_row + row) * Q_HEADS + head, m, l / WEIGHT_SCALE);
        logits[row * LOGIT_ROW + FACTOR] = vec4(merge * vec2(1.0 / WEIGHT_SCALE, 1.0), 0.0, 0.0);
    }
    //!repeat 8 i
    if OWN_SIXTEENS > {i}u {
        put(o{i}, side, {i}u, own_rows, rows, member, first_row, head);
        if BANDS == 2u {
            put(u{i}, side, {i}u, own_rows + 16u, rows, member, first_row, head);
        }
    }
    //!end
}

// The tiles that a workgroup goes through.
struct Walk {
    row: u32,
    kv_head: u32,
    // Tokens that none begins at, nor behind.
    until: u32,
    last_position: u32,
}

// A tile of tokens, and where it lies.
struct Tile {
    // Its first token.
    first: u32,
    place: Place,
}

// The blocks of a tile, or of the last one where it is behind that.
fn blocks_ahead(walk: Walk, tile: u32) -> vec2<u32> {
    return blocks_of(walk.row, min(tile, max(walk.until, 1u) - 1u), walk.last_position);
}

// The first tile from there on that has tokens in this segment; what begins at `until` or later where there is none. The first
// one's blocks are known: they were asked for a tile ago.
fn next_tile(walk: Walk, from_token: u32, known: vec2<u32>) -> Tile {
    var tile = Tile(from_token, Place());
    var blocks = known;
    while tile.first < walk.until {
        if any(blocks < vec2(segment.blocks)) {
            tile.place = place_in(blocks, walk.kv_head, tile.first);
            break;
        }
        tile.first += TILE_TOKENS;
        blocks = blocks_ahead(walk, tile.first);
    }
    return tile;
}

// A tile's vec4 in order of tokens; the last one's again where there are fewer. Where there is no tile, what lies first.
fn key_at(place: Place, index: u32) -> vec4<f16> {
    let i = min(index, TILE_VECS - 1u);
    return kv[2u * place_rows(place, i / VECS) + i];
}

// A head-block's values follow its keys.
fn value_at(place: Place, index: u32) -> vec4<f16> {
    let i = min(index, TILE_VECS - 1u);
    return $values(kv)[2u * place_rows(place, i / VECS) + $first_value(BLOCK) * VECS + i];
}

fn stage_key(i: u32, key: vec4<f16>) {
    if i < TILE_VECS {
        stage[i / VECS * STAGE_ROW + i % VECS] = key;
    }
}

// Values are zero for tokens past the last one, which were never written, or by another sequence: 0 * NaN would be NaN.
fn stage_value(i: u32, value: vec4<f16>, tile: Tile, last_position: u32) {
    if i < TILE_VECS {
        let token = i / VECS;
        let written = place_here(tile.place, token) && tile.first + token <= last_position;
        stage[VALUES_AT + token * STAGE_ROW + i % VECS] = select(vec4<f16>(), value, written);
    }
}

// The sixteen dimensions of outputs that a subgroup has; the last ones, which another has, where it has one fewer.
fn own_sixteen(side: u32, i: u32) -> u32 {
    return min(side * OWN_SIXTEENS + i, SIXTEENS - 1u);
}

// Outputs of sixteen dimensions, each row multiplied by its factor.
fn rescaled(o: coop_mat16x16<f32, C>, first: u32, side: u32, member: u32) -> coop_mat16x16<f32, C> {
    let own = first * LOGIT_ROW + side * 4u;
    let factor = logits[(first + member / 2u) * LOGIT_ROW + FACTOR].x;
    let at = own + member / 2u * LOGIT_ROW + member % 2u * 2u;
    coopStoreT(o, &logits[own], LOGIT_ROW);
    workgroupBarrier();
    logits[at] *= factor;
    logits[at + 1u] *= factor;
    workgroupBarrier();
    let product = coopLoadT<coop_mat16x16<f32, C>>(&logits[own], LOGIT_ROW);
    workgroupBarrier();
    return product;
}

// Writes the i-th of a subgroup's sixteen dimensions of outputs, of the sixteen rows from `first` on: two lanes a row, eight
// dimensions each.
fn put(o: coop_mat16x16<f32, C>, side: u32, i: u32, first: u32, rows: u32, member: u32, first_row: u32, head: u32) {
    let own = first * LOGIT_ROW + side * 4u;
    coopStoreT(o, &logits[own], LOGIT_ROW);
    workgroupBarrier();
    let row = first + member / 2u;
    let sixteen = side * OWN_SIXTEENS + i;
    if row < rows && sixteen < SIXTEENS {
        let merge = logits[row * LOGIT_ROW + FACTOR].xy;
        let at = own + member / 2u * LOGIT_ROW + member % 2u * 2u;
        let to = ((first_row + row) * Q_HEADS + head) * VECS + sixteen * 4u + member % 2u * 2u;
        finish(to, merge, logits[at], logits[at + 1u]);
    }
    workgroupBarrier();
}
