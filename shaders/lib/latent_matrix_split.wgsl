// Decode attention of one row over one split of its tokens, as latent_split.wgsl, on matrix units: cooperative matrices of
// 16 x 16 f16, summed in f32. A workgroup has all heads, in one or two matrices of sixteen, and sixteen tokens at a time, whose
// rows it reads from memory once.
//
// Logits: each of eight subgroups has a part of the dimensions, for all heads, and its queries in registers; the parts are
// summed through workgroup memory. Outputs: each has a part of the dimensions of values, in registers. They are rescaled by way
// of memory, only when some head's maximum has grown by more than GROWTH since the last time: its weights then exceed 1, up to
// 2^8 times.
//
// Range and precision: rows are f16 in the cache. A head's query is shifted (f16_scale.wgsl) and rounded to f16, 2^-11 of itself;
// so are weights, which are multiplied by 2^7 before, so that those from 2^-21 of the maximum on are normal f16, and 2^15 is
// the largest.
// Grid: (splits, KV heads, rows).
enable f16;
enable wgpu_cooperative_matrix;
//!include lib/attended.wgsl
//!include lib/f16_scale.wgsl

// Tokens of a tile, which src/attention/shape.rs plans splits by.
const TILE: u32 = 16u;
const HEADS: u32 = 32u;
// Subgroups. Each has KEY_STEPS sixteens of the dimensions of keys, and VALUE_STEPS of these.
const PARTS: u32 = 8u;
const WORKGROUP: u32 = 32u * PARTS;
const VALUE_SIXTEENS: u32 = VALUE_DIM / 16u;
// Lanes that share a token's row when it is loaded. Each has LOADS vec4 of it.
const ROW_LANES: u32 = WORKGROUP / TILE;
const VECS: u32 = HEAD_DIM / 4u;
// Lanes that share a head where logits become weights: two for every four tokens.
const HEAD_LANES: u32 = 8u;
// ln(2^8)
const GROWTH: f32 = 5.545177;
const WEIGHT_SCALE: f32 = 128.0;
// From one row of what lies in workgroup memory to the next, in vec4: a little more than what a row holds, so that rows begin
// in different banks.
const QUERY_ROW: u32 = PARTS * 4u + 2u;
const STAGE_ROW: u32 = VECS + 2u;
const WEIGHT_ROW: u32 = TILE / 4u + 2u;
const SUM_ROW: u32 = TILE / 4u + 1u;
// Behind the tile's rows.
const WEIGHTS_AT: u32 = TILE * STAGE_ROW;
const HALVES: u32 = max(HEADS * QUERY_ROW, WEIGHTS_AT + HEADS * WEIGHT_ROW);
// Of a subgroup: sums of [head][token]. Behind them all: by what a head's outputs are multiplied; whether the tile's tokens are
// here, 1 or 0; and whether some head's maximum has grown.
const SUMS: u32 = HEADS * SUM_ROW;
const FACTORS_AT: u32 = PARTS * SUMS;
const PRESENT_AT: u32 = FACTORS_AT + HEADS / 4u;
const GROWN_AT: u32 = PRESENT_AT + TILE / 4u;

@group(0) @binding(2) var<storage, read> qkv: array<vec4<f32>>;
// [physical block][token][VECS]
@group(0) @binding(3) var<storage, read> kv: array<vec4<f16>>;

// Queries of [HEADS][one of each part's steps]; then [16 tokens][STAGE_ROW], and weights of [HEADS][tokens].
var<workgroup> halves: array<vec4<f16>, HALVES>;
var<workgroup> floats: array<vec4<f32>, GROWN_AT + 1u>;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(subgroup_id) number: u32,
    @builtin(subgroup_invocation_id) member: u32,
) {
    // Reversed, subgroups change places; their lanes stay in order, since they shuffle.
    let subgroup = lane_of(number, PARTS);
    let lane = subgroup * 32u + member;
    let split = group.x;
    let kv_head = group.y;
    let row = row_of(group.z);
    let total = token_count(row, kv_head);
    let split_tokens = split_tiles((total + TILE - 1u) / TILE) * TILE;
    let begin = min(split * split_tokens, total);
    let end = min(begin + split_tokens, total);

    // This lane's share of the next tile's rows and of those of the tile after it, and where those of the third begin: they are on
    // their way while a tile is worked on.
    let token = lane / ROW_LANES;
    let vec = lane % ROW_LANES;
    var place = key_row(row, kv_head, begin + token, end);
    var next = key_row(row, kv_head, begin + TILE + token, end);
    var third = key_row(row, kv_head, begin + 2u * TILE + token, end);
    //!repeat LOADS i
    var e{i} = load4(place, vec{+i*ROW_LANES});
    var f{i} = load4(next, vec{+i*ROW_LANES});
    //!end

    let head = lane / HEAD_LANES;
    let part = lane % HEAD_LANES;
    let query = row * (ROW_WIDTH / 4u) + (kv_head * GROUP + min(head, GROUP - 1u)) * VECS;
    var bits = vec4(0u);
    //!repeat KEY_STEPS i
    //!repeat 4 k
    let x{i}_{k} = query4(query, ((part{+8*k}) / 4u * KEY_STEPS{+i}) * 4u + part % 4u);
    bits = max(bits, bitcast<vec4<u32>>(x{i}_{k}) & vec4(0x7fffffffu));
    //!end
    //!end
    var largest_bits = max(max(bits.x, bits.y), max(bits.z, bits.w));
    //!repeat 3 i
    largest_bits = max(largest_bits, subgroupShuffleXor(largest_bits, 1u << {i}u));
    //!end
    let shift = f16_shift(bitcast<f32>(largest_bits));
    let shrink = power_of_two(-shift);
    let grow = power_of_two(shift) * SCALE;
    // Queries of sixteen dimensions each, of the first sixteen heads and of the others. They have names: in an array that a loop
    // indexes they could live in memory.
    //!repeat KEY_STEPS i
    workgroupBarrier();
    //!repeat 4 k
    halves[head * QUERY_ROW + part{+8*k}] = vec4<f16>(x{i}_{k} * shrink);
    //!end
    workgroupBarrier();
    let q{i} = coopLoadT<coop_mat16x16<f16, A>>(&halves[subgroup * 4u], QUERY_ROW);
    let r{i} = coopLoadT<coop_mat16x16<f16, A>>(&halves[16u * QUERY_ROW + subgroup * 4u], QUERY_ROW);
    //!end

    // Outputs of sixteen dimensions each, of the first sixteen heads and of the others.
    let keys_from = subgroup * KEY_STEPS;
    let values_from = subgroup * VALUE_STEPS;
    //!repeat VALUE_STEPS i
    var o{i}: coop_mat16x16<f32, C>;
    var u{i}: coop_mat16x16<f32, C>;
    //!end
    // The maximum that the head's weights are relative to, and their sum, of which two of its lanes have the same quarter.
    var m = NOTHING;
    var l = 0.0;
    let quad = part / 2u;
    let half = part % 2u;
    let own_sums = subgroup * SUMS;

    for (var tile = begin; tile < end; tile += TILE) {
        // What the last tile left is read, and so are queries.
        workgroupBarrier();
        let stage = token * STAGE_ROW + vec;
        let is_here = place != NOWHERE;
        //!repeat LOADS i
        if vec{+i*ROW_LANES} < VECS {
            halves[stage{+i*ROW_LANES}] = select(vec4<f16>(), e{i}, is_here);
        }
        //!end
        if vec == 0u {
            floats[PRESENT_AT + token / 4u][token % 4u] = select(0.0, 1.0, is_here);
        }
        if lane == 0u {
            floats[GROWN_AT].x = 0.0;
        }
        workgroupBarrier();
        //!repeat LOADS i
        e{i} = f{i};
        f{i} = load4(third, vec{+i*ROW_LANES});
        //!end
        place = next;
        next = third;
        third = key_row(row, kv_head, tile + 3u * TILE + token, end);

        var near: coop_mat16x16<f32, C>;
        var far: coop_mat16x16<f32, C>;
        //!repeat KEY_STEPS i
        {
            // Past the last dimension queries are zero.
            let at = min(keys_from{+i}, HEAD_DIM / 16u - 1u) * 4u;
            let keys = coopLoad<coop_mat16x16<f16, B>>(&halves[at], STAGE_ROW);
            near = coopMultiplyAdd(q{i}, keys, near);
            if GROUP > 16u {
                far = coopMultiplyAdd(r{i}, keys, far);
            }
        }
        //!end
        coopStoreT(near, &floats[own_sums], SUM_ROW);
        if GROUP > 16u {
            coopStoreT(far, &floats[own_sums + 16u * SUM_ROW], SUM_ROW);
        }
        workgroupBarrier();

        // Logits of four tokens, of which each of two lanes sums half of the parts; the head's largest; its weights.
        let sums = half * 4u * SUMS + head * SUM_ROW + quad;
        var s = floats[sums];
        //!repeat 1..4 i
        s += floats[sums + {i}u * SUMS];
        //!end
        s += subgroupShuffleXor(s, 1u);
        let counts = floats[PRESENT_AT + quad] == vec4(1.0);
        s = select(vec4(NOTHING), s * grow, counts);
        var largest = max(max(s.x, s.y), max(s.z, s.w));
        largest = max(largest, subgroupShuffleXor(largest, 2u));
        largest = max(largest, subgroupShuffleXor(largest, 4u));
        var factor = 1.0;
        if largest > m + GROWTH {
            factor = exp(m - largest);
            l *= factor;
            // Before the first token that is here outputs are zero.
            if m != NOTHING {
                floats[GROWN_AT].x = 1.0;
            }
            m = largest;
        }
        let weights = select(vec4(0.0), exp(s - m) * WEIGHT_SCALE, counts);
        l += dot(weights, vec4(1.0));
        if half == 0u {
            halves[WEIGHTS_AT + head * WEIGHT_ROW + quad] = vec4<f16>(weights);
        }
        if part == 0u {
            floats[FACTORS_AT + head / 4u][head % 4u] = factor;
        }
        workgroupBarrier();

        if floats[GROWN_AT].x == 1.0 {
            //!repeat VALUE_STEPS i
            o{i} = rescaled(o{i}, own_sums, member, 0u);
            if GROUP > 16u {
                u{i} = rescaled(u{i}, own_sums, member, 16u);
            }
            //!end
        }
        let w_near = coopLoadT<coop_mat16x16<f16, A>>(&halves[WEIGHTS_AT], WEIGHT_ROW);
        let w_far = coopLoadT<coop_mat16x16<f16, A>>(&halves[WEIGHTS_AT + 16u * WEIGHT_ROW], WEIGHT_ROW);
        //!repeat VALUE_STEPS i
        {
            let at = min(values_from{+i}, VALUE_SIXTEENS - 1u) * 4u;
            let values = coopLoadT<coop_mat16x16<f16, B>>(&halves[at], STAGE_ROW);
            o{i} = coopMultiplyAdd(w_near, values, o{i});
            if GROUP > 16u {
                u{i} = coopMultiplyAdd(w_far, values, u{i});
            }
        }
        //!end
    }

    l += subgroupShuffleXor(l, 2u);
    l += subgroupShuffleXor(l, 4u);
    let splits = step[H_SPLITS];
    let between = segment.count * splits;
    let first = ((row * Q_HEADS + kv_head * GROUP) * segment.count + segment.index) * splits + split;
    if part == 0u && head < GROUP {
        partial_ml[first + head * between] = vec2(m, l / WEIGHT_SCALE);
    }
    //!repeat VALUE_STEPS i
    let is_value{i} = values_from{+i} < VALUE_SIXTEENS;
    coopStoreT(o{i}, &floats[own_sums], SUM_ROW);
    put(is_value{i}, 0u, own_sums, member, first, between, (values_from{+i}) * 16u);
    if GROUP > 16u {
        coopStoreT(u{i}, &floats[own_sums], SUM_ROW);
        put(is_value{i}, 16u, own_sums, member, first, between, (values_from{+i}) * 16u);
    }
    //!end
}

// Four dimensions of a query, the last head's again where there are fewer heads; past the last dimension zeros.
fn query4(query: u32, vec: u32) -> vec4<f32> {
    return select(vec4(0.0), qkv[query + min(vec, VECS - 1u)], vec < VECS);
}

// Four numbers of a row; any where there is none. The load itself is unconditional, so that several are on their way at a time.
fn load4(row: u32, vec: u32) -> vec4<f16> {
    return kv[2u * select(row, 0u, row == NOWHERE) + min(vec, VECS - 1u)];
}

// Outputs of sixteen dimensions, each head's multiplied by its factor; heads from `first` on.
fn rescaled(o: coop_mat16x16<f32, C>, own: u32, member: u32, first: u32) -> coop_mat16x16<f32, C> {
    let head = first + member / 2u;
    let factor = floats[FACTORS_AT + head / 4u][head % 4u];
    let at = own + member / 2u * SUM_ROW + member % 2u * 2u;
    coopStoreT(o, &floats[own], SUM_ROW);
    workgroupBarrier();
    floats[at] *= factor;
    floats[at + 1u] *= factor;
    workgroupBarrier();
    let product = coopLoadT<coop_mat16x16<f32, C>>(&floats[own], SUM_ROW);
    workgroupBarrier();
    return product;
}

// Writes the sixteen dimensions from `dimension` on that its subgroup has just stored, of heads from `first_head` on: sixteen lanes
// a head, so that they write next to one another.
fn put(is_value: bool, first_head: u32, own: u32, member: u32, first: u32, between: u32, dimension: u32) {
    let column = member % 16u;
    workgroupBarrier();
    if is_value {
        for (var i = member / 16u; i < min(16u, GROUP - first_head); i += 2u) {
            let to = (first + (first_head + i) * between) * VALUE_DIM + dimension + column;
            partial_o[to] = floats[own + i * SUM_ROW + column / 4u][column % 4u] / WEIGHT_SCALE;
        }
    }
    workgroupBarrier();
}
