// Decode attention of one row over one split of its tokens where values have rows of their own, for adapters whose subgroups
// have SUBGROUP lanes: no workgroup memory and no barrier until the end, so that loads of several tokens are always on
// their way.
//
// A team of LANES lanes reads one token's row, a vec4 (of eight f16) a lane, and takes ROUND tokens at a time: of their
// ROUND x 4 logits each lane is left with one, (token, head) = (lane / 4, lane % 4). Each subgroup has a share of the split's
// tokens.
// Grid: (splits, KV heads * QUADS, rows).
//!include lib/quad_eights.wgsl
//!include <cap>

// Tokens of a tile, which src/attention/shape.rs plans splits by.
const TILE: u32 = 64u;
const SUBGROUPS: u32 = 4u;
const WORKGROUP: u32 = SUBGROUPS * SUBGROUP;
// 8 or 16, for heads of 64 or 128 dimensions; ROUND is 2 or 4.
const LANES: u32 = ROW_VECS;
// Tokens that a subgroup takes at a time.
const STRIDE: u32 = SUBGROUP / LANES * ROUND;

// Of each subgroup, (m, l) of each head.
var<workgroup> states: array<vec2<f32>, 4u * SUBGROUPS>;
// Of each subgroup, its sum of each dimension.
var<workgroup> outputs: array<vec4<f32>, SUBGROUPS * HEAD_DIM>;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
    @builtin(subgroup_invocation_id) member: u32,
) {
    let subgroup = lane_of(local, WORKGROUP) / SUBGROUP;
    let split = group.x;
    let kv_head = group.y / QUADS;
    let quad = group.y % QUADS;
    let row = row_of(group.z);
    let team = member / LANES;
    let part = member % LANES;
    // The token of a round whose logit is this lane's, and the lane that has that of head 0 and token 0.
    let own_token = part / 4u;
    let first_lane = team * LANES;
    let total = token_count(row, kv_head);
    let split_tokens = split_tiles((total + TILE - 1u) / TILE) * TILE;
    let begin = min(split * split_tokens, total);
    let end = min(begin + split_tokens, total);
    let share = (end - begin + SUBGROUPS * STRIDE - 1u) / (SUBGROUPS * STRIDE) * STRIDE;
    let first = min(begin + subgroup * share, end);
    let last = min(first + share, end);

    let q_at = row * ROW_WIDTH + kv_head * GROUP * HEAD_DIM + part * 8u;
    let q = Eight(
        //!repeat 8 i
        query(q_at{+i}, quad),
        //!end
    );
    var o = Eight();
    // Of this lane's head; the sum is of its tokens alone.
    var m = NOTHING;
    var l = 0.0;

    for (var tile = first; tile < last; tile += SUBGROUP) {
        // Each lane looks up one token of the subgroup.
        let own = key_row(row, kv_head, tile + member, last);
        // None of them is in this segment.
        if !subgroupAny(own != NOWHERE) {
            continue;
        }
        let count = min(last - tile, SUBGROUP);
        var source = team * ROUND;
        //!repeat ROUND t
        var at{t} = subgroupShuffle(own, source{+t});
        var key{t} = load8(at{t}, part);
        //!end
        for (var done = 0u; done < count; done += STRIDE) {
            // Values, and the keys of the next round, are on their way while this round's logits are made.
            let counts = subgroupShuffle(own, source + own_token) != NOWHERE;
            //!repeat ROUND t
            let value{t} = $value8(load8)(at{t}, KEY_TO_VALUE + part);
            let x{t} = dot8(q, key{t});
            //!end
            source += STRIDE;
            if done + STRIDE < count {
                //!repeat ROUND t
                at{t} = subgroupShuffle(own, source{+t});
                key{t} = load8(at{t}, part);
                //!end
            }
            let logit = select(NOTHING, capped(logit_of(Round(
                //!repeat ROUND t
                x{t},
                //!end
                //!repeat ROUND..4 t
                vec4(0.0),
                //!end
            ), part)), counts);
            var next = max(m, max(logit, subgroupShuffleXor(logit, 4u)));
            if ROUND == 4u {
                next = max(next, subgroupShuffleXor(next, 8u));
            }
            // Seldom after the first rounds.
            if subgroupAny(next > m) {
                let rescale = exp(m - next);
                m = next;
                l *= rescale;
                o = scale8(o, heads_of(rescale, first_lane));
            }
            let weight = select(0.0, exp(logit - m), counts);
            l += weight;
            //!repeat ROUND t
            o = add8(o, heads_of(weight, first_lane + {t}u * 4u), value{t});
            //!end
        }
    }

    // The teams of a subgroup, then the subgroups.
    l += subgroupShuffleXor(l, 4u);
    if ROUND == 4u {
        l += subgroupShuffleXor(l, 8u);
    }
    var joint = m;
    for (var other = LANES; other < SUBGROUP; other = other * 2u) {
        joint = max(joint, subgroupShuffleXor(joint, other));
    }
    let rescale = exp(m - joint);
    l *= rescale;
    o = scale8(o, heads_of(rescale, first_lane));
    for (var other = LANES; other < SUBGROUP; other = other * 2u) {
        l += subgroupShuffleXor(l, other);
        o = Eight(
            //!repeat 8 i
            o.v{i} + subgroupShuffleXor(o.v{i}, other),
            //!end
        );
    }
    if member < 4u {
        states[subgroup * 4u + member] = vec2(joint, l);
    }
    if member < LANES {
        let at = subgroup * HEAD_DIM + member * 8u;
        //!repeat 8 i
        outputs[at{+i}] = o.v{i};
        //!end
    }
    workgroupBarrier();
    var largest = vec4(NOTHING);
    for (var s = 0u; s < SUBGROUPS; s++) {
        largest = max(largest, largest_of(s));
    }
    let lane = subgroup * SUBGROUP + member;
    let splits = step[H_SPLITS];
    let heads = min(4u, GROUP - quad * 4u);
    let between = segment.count * splits;
    let to = ((row * Q_HEADS + kv_head * GROUP + quad * 4u) * segment.count + segment.index) * splits + split;
    if lane < heads {
        var sum = 0.0;
        for (var s = 0u; s < SUBGROUPS; s++) {
            let state = states[s * 4u + lane];
            sum += exp(state.x - largest[lane]) * state.y;
        }
        partial_ml[to + lane * between] = vec2(largest[lane], sum);
    }
    for (var i = lane; i < HEAD_DIM; i += WORKGROUP) {
        var sum = vec4(0.0);
        for (var s = 0u; s < SUBGROUPS; s++) {
            sum += exp(largest_of(s) - largest) * outputs[s * HEAD_DIM + i];
        }
        for (var h = 0u; h < heads; h++) {
            partial_o[(to + h * between) * HEAD_DIM + i] = sum[h];
        }
    }
}

// Of a subgroup, the largest logit of each head.
fn largest_of(subgroup: u32) -> vec4<f32> {
    let at = subgroup * 4u;
    return vec4(
        //!repeat 4 i
        states[at{+i}].x,
        //!end
    );
}

// What four lanes have, one a head.
fn heads_of(value: f32, lane: u32) -> vec4<f32> {
    return vec4(
        //!repeat 4 i
        subgroupShuffle(value, lane{+i}),
        //!end
    );
}

// The products of up to four tokens with four heads' queries, of one lane's dimensions.
struct Round {
    //!repeat 4 t
    v{t}: vec4<f32>,
    //!end
}

// The sum, over the lanes that have the same token, of the token's products.
fn token_sum(x: Round, part: u32) -> vec4<f32> {
    var a = x.v0;
    var b = x.v1;
    if ROUND == 4u {
        let upper = (part & 8u) != 0u;
        a = select(x.v0, x.v2, upper) + subgroupShuffleXor(select(x.v2, x.v0, upper), 8u);
        b = select(x.v1, x.v3, upper) + subgroupShuffleXor(select(x.v3, x.v1, upper), 8u);
    }
    let odd = (part & 4u) != 0u;
    return select(a, b, odd) + subgroupShuffleXor(select(b, a, odd), 4u);
}

// The team's sum of one of them, by halving: each lane keeps half of what it has and is given its neighbour's share of that.
fn logit_of(x: Round, part: u32) -> f32 {
    let four = token_sum(x, part);
    let upper = (part & 2u) != 0u;
    let two = select(four.xy, four.zw, upper) + subgroupShuffleXor(select(four.zw, four.xy, upper), 2u);
    let odd = (part & 1u) != 0u;
    return select(two.x, two.y, odd) + subgroupShuffleXor(select(two.y, two.x, odd), 1u);
}
