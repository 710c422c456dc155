// Decode attention of one row over one split of its tokens, as latent_split.wgsl, on matrix units: cooperative matrices of
// 16 x 16 f16, summed in f32. A workgroup has all heads, in one or two matrices of sixteen, and sixteen tokens at a time, whose
// rows it reads from memory once.
//
// Logits: each of eight subgroups has a part of the dimensions, for all heads and tokens, and its queries in registers; the
// parts are summed through workgroup memory. Outputs: each subgroup has a part of the dimensions of values, in registers. They
// are rescaled by way of memory, only when some head's maximum has grown by more than GROWTH since the last time: its weights
// then exceed 1, up to 2^8 times.
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
const SUBGROUPS: u32 = 8u;
const WORKGROUP: u32 = 256u;
// Lanes that share a token's row when it is loaded. Each has LOADS vec4 of it.
const ROW_LANES: u32 = WORKGROUP / TILE;
const VECS: u32 = HEAD_DIM / 4u;
// Lanes that share a head where logits become weights.
const HEAD_LANES: u32 = 8u;
// A subgroup has KEY_STEPS sixteens of the dimensions of keys, and VALUE_STEPS of these.
const VALUE_SIXTEENS: u32 = VALUE_DIM / 16u;
// ln(2^8)
const GROWTH: f32 = 5.545177;
const WEIGHT_SCALE: f32 = 128.0;
// From one row of what lies in workgroup memory to the next, in vec4: a little more than what a row holds, so that rows begin
// in different banks.
const QUERY_ROW: u32 = KEY_STEPS * SUBGROUPS * 4u + 2u;
const STAGE_ROW: u32 = VECS + 2u;
const WEIGHT_ROW: u32 = TILE / 4u + 2u;
const SUM_ROW: u32 = TILE / 4u + 1u;
// Behind the tile's rows.
const WEIGHTS_AT: u32 = TILE * STAGE_ROW;
const HALVES: u32 = max(16u * QUERY_ROW, WEIGHTS_AT + 32u * WEIGHT_ROW);
// Behind the sums of [subgroup][head]: by what a head's outputs are multiplied; whether the tile's tokens are here, 1 or 0; and
// whether some head's maximum has grown.
const SUBGROUP_SUMS: u32 = 32u * SUM_ROW;
const FACTORS_AT: u32 = SUBGROUPS * SUBGROUP_SUMS;
const PRESENT_AT: u32 = FACTORS_AT + 8u;
const GROWN_AT: u32 = PRESENT_AT + TILE / 4u;

// [physical block][token][VECS]
@group(0) @binding(3) var<storage, read> kv: array<vec4<f16>>;

// Queries of sixteen heads; then [16 tokens][STAGE_ROW], and weights of [32 heads][tokens].
var<workgroup> halves: array<vec4<f16>, HALVES>;
var<workgroup> floats: array<vec4<f32>, GROWN_AT + 1u>;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) member: u32,
) {
    let lane = subgroup * 32u + member;
    let split = group.x;
    let kv_head = group.y;
    let row = row_of(group.z);

    let head = lane / HEAD_LANES;
    let part = lane % HEAD_LANES;
    let query = row * ROW_WIDTH + (kv_head * GROUP + min(head, GROUP - 1u)) * HEAD_DIM;
    var largest_bits = 0u;
    for (var i = part; i < HEAD_DIM; i += HEAD_LANES) {
        largest_bits = max(largest_bits, bitcast<u32>(qkv[query + i]) & 0x7fffffffu);
    }
    largest_bits = max(largest_bits, subgroupShuffleXor(largest_bits, 1u));
    largest_bits = max(largest_bits, subgroupShuffleXor(largest_bits, 2u));
    largest_bits = max(largest_bits, subgroupShuffleXor(largest_bits, 4u));
    let shift = f16_shift(bitcast<f32>(largest_bits));
    let shrink = power_of_two(-shift);
    let grow = power_of_two(shift) * SCALE;

    // Queries of sixteen dimensions each, of the first sixteen heads and of the others. They have names: in an array that a loop
    // indexes they could live in memory.
    let keys_from = subgroup * KEY_STEPS;
    //!repeat KEY_STEPS i
    var q{i}: coop_mat16x16<f16, A>;
    var r{i}: coop_mat16x16<f16, A>;
    //!end
    stage_queries(head, part, query, shrink);
    workgroupBarrier();
    //!repeat KEY_STEPS i
    q{i} = coopLoadT<coop_mat16x16<f16, A>>(&halves[(keys_from{+i}) * 4u], QUERY_ROW);
    //!end
    if GROUP > 16u {
        workgroupBarrier();
        stage_queries(head - 16u, part, query, shrink);
        workgroupBarrier();
        //!repeat KEY_STEPS i
        r{i} = coopLoadT<coop_mat16x16<f16, A>>(&halves[(keys_from{+i}) * 4u], QUERY_ROW);
        //!end
    }

    let total = token_count(row, kv_head);
    let split_tokens = step[H_SPLIT_TILES] * TILE;
    let begin = min(split * split_tokens, total);
    let end = min(begin + split_tokens, total);
    // Outputs of sixteen dimensions each, of the first sixteen heads and of the others.
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
    let own_sums = subgroup * SUBGROUP_SUMS;

    // This lane's share of the next tile's rows: they are on their way while a tile is worked on.
    let token = lane / ROW_LANES;
    let vec = lane % ROW_LANES;
    var place = key_row(row, kv_head, begin + token, end);
    //!repeat LOADS i
    var e{i} = load4(place, vec{+16*i});
    //!end
    for (var tile = begin; tile < end; tile += TILE) {
        // What the last tile left is read, and so are queries.
        workgroupBarrier();
        let stage = token * STAGE_ROW + vec;
        let here = place != NOWHERE;
        //!repeat LOADS i
        if vec{+16*i} < VECS {
            halves[stage{+16*i}] = select(vec4<f16>(), e{i}, here);
        }
        //!end
        if vec == 0u {
            floats[PRESENT_AT + token / 4u][token % 4u] = select(0.0, 1.0, here);
        }
        if lane == 0u {
            floats[GROWN_AT].x = 0.0;
        }
        workgroupBarrier();
        place = key_row(row, kv_head, tile + TILE + token, end);
        //!repeat LOADS i
        e{i} = load4(place, vec{+16*i});
        //!end

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

        // Logits of four tokens, of which two lanes sum half of the parts each; the head's largest; its weights.
        var s = vec4(0.0);
        for (var i = 0u; i < SUBGROUPS / 2u; i++) {
            s += floats[(half * (SUBGROUPS / 2u) + i) * SUBGROUP_SUMS + head * SUM_ROW + quad];
        }
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
    // Two lanes share a head, eight dimensions each.
    let writes_head = member / 2u;
    //!repeat VALUE_STEPS i
    {
        let sixteen = values_from{+i};
        let dimension = sixteen * 16u + member % 2u * 8u;
        coopStoreT(o{i}, &floats[own_sums], SUM_ROW);
        put(sixteen < VALUE_SIXTEENS && writes_head < GROUP, own_sums, member, (first + writes_head * between) * VALUE_DIM + dimension);
        if GROUP > 16u {
            coopStoreT(u{i}, &floats[own_sums], SUM_ROW);
            put(sixteen < VALUE_SIXTEENS && writes_head + 16u < GROUP, own_sums, member, (first + (writes_head + 16u) * between) * VALUE_DIM + dimension);
        }
    }
    //!end
}

// Queries of sixteen heads, the last head's again where there are fewer; past the last dimension zeros.
fn stage_queries(head: u32, part: u32, query: u32, shrink: f32) {
    if head >= 16u {
        return;
    }
    for (var i = part; i < KEY_STEPS * SUBGROUPS * 4u; i += HEAD_LANES) {
        let at = query + min(i, VECS - 1u) * 4u;
        let four = vec4(qkv[at], qkv[at + 1u], qkv[at + 2u], qkv[at + 3u]) * shrink;
        halves[head * QUERY_ROW + i] = vec4<f16>(select(vec4(0.0), four, i < VECS));
    }
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

// Writes this lane's eight of sixteen dimensions that its subgroup has just stored.
fn put(writes: bool, own: u32, member: u32, to: u32) {
    let at = own + member / 2u * SUM_ROW + member % 2u * 2u;
    workgroupBarrier();
    if writes {
        let low = floats[at] / WEIGHT_SCALE;
        let high = floats[at + 1u] / WEIGHT_SCALE;
        //!repeat 4 i
        partial_o[to{+i}] = low.{xyzw[i]};
        partial_o[to{+i+4}] = high.{xyzw[i]};
        //!end
    }
    workgroupBarrier();
}
