// Decode attention of one row over one split of its tokens where values have rows of their own, for adapters whose subgroups
// have SUBGROUP lanes: no workgroup memory and no barrier until the end, so that loads of several tokens are always on
// their way.
//
// A team of LANES lanes reads tokens' rows, a vec4 (of eight f16) a lane, and takes ROUND tokens at a time: of their
// ROUND x 4 logits each lane is left with one, (token, head) = (lane / 4, lane % 4). What a lane holds of several tokens or heads is in
// an order of its own: slot x is token (own token ^ x), component c is head (own head ^ c). So all lanes give each other the same
// slots, with no choice by lane, and what belongs to slot x and component c comes from the lane (own lane ^ (4 x + c)). Each subgroup
// has a share of the split's tokens.
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
    // The token of a round, and the head, whose logit is this lane's.
    let own_token = part / 4u;
    let own_head = part % 4u;
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
        query(q_at{+i}, quad, own_head),
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
        // The lane that looked up this lane's token of a round.
        var source = team * ROUND + own_token;
        //!repeat ROUND x
        var at{x} = subgroupShuffle(own, source ^ {x}u);
        var key{x} = some8(at{x}, part);
        //!end
        for (var done = 0u; done < count; done += STRIDE) {
            // Keys of no token make logits that do not count. Values, and the keys of the next round, are on their way while this round's logits are made. After the last round some
            // that are in the cache come for nothing: a branch would cost more.
            let counts = at0 != NOWHERE;
            //!repeat ROUND x
            let value{x} = $value8(load8)(at{x}, KEY_TO_VALUE + part);
            let product{x} = dot8(q, key{x});
            //!end
            source = min(source + STRIDE, SUBGROUP - STRIDE + team * ROUND + own_token);
            //!repeat ROUND x
            at{x} = subgroupShuffle(own, source ^ {x}u);
            key{x} = some8(at{x}, part);
            //!end
            let logit = select(NOTHING, capped(logit_of(Round(
                //!repeat ROUND x
                product{x},
                //!end
                //!repeat ROUND..4 x
                vec4(0.0),
                //!end
            ))), counts);
            var next = max(m, max(logit, subgroupShuffleXor(logit, 4u)));
            if ROUND == 4u {
                next = max(next, subgroupShuffleXor(next, 8u));
            }
            // Seldom after the first rounds.
            if subgroupAny(next > m) {
                let rescale = exp(m - next);
                m = next;
                l *= rescale;
                o = scale8(o, heads_of(rescale));
            }
            let weight = select(0.0, exp(logit - m), counts);
            l += weight;
            o = add8(o, heads_of(weight), value0);
            //!repeat 1..ROUND x
            o = add8(o, heads_of(subgroupShuffleXor(weight, {4*x}u)), value{x});
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
    o = scale8(o, heads_of(rescale));
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
    let lane = subgroup * SUBGROUP + member;
    let splits = step[H_SPLITS];
    let heads = min(4u, GROUP - quad * 4u);
    let between = segment.count * splits;
    let to = ((row * Q_HEADS + kv_head * GROUP + quad * 4u) * segment.count + segment.index) * splits + split;
    if lane < heads {
        var largest = NOTHING;
        for (var s = 0u; s < SUBGROUPS; s++) {
            largest = max(largest, states[s * 4u + lane].x);
        }
        var sum = 0.0;
        for (var s = 0u; s < SUBGROUPS; s++) {
            let state = states[s * 4u + lane];
            sum += exp(state.x - largest) * state.y;
        }
        partial_ml[to + lane * between] = vec2(largest, sum);
    }
    for (var i = lane; i < HEAD_DIM; i += WORKGROUP) {
        // The head of the lane that summed this dimension, in whose order its sums are.
        let summed_by = i / 8u % 4u;
        var largest = vec4(NOTHING);
        for (var s = 0u; s < SUBGROUPS; s++) {
            largest = max(largest, largest_of(s, summed_by));
        }
        var sum = vec4(0.0);
        for (var s = 0u; s < SUBGROUPS; s++) {
            sum += exp(largest_of(s, summed_by) - largest) * outputs[s * HEAD_DIM + i];
        }
        //!repeat 4 c
        let head{c} = summed_by ^ {c}u;
        if head{c} < heads {
            partial_o[(to + head{c} * between) * HEAD_DIM + i] = sum[{c}];
        }
        //!end
    }
}

// Of a subgroup, the largest logit of each head, in the order of a lane of this one.
fn largest_of(subgroup: u32, own_head: u32) -> vec4<f32> {
    let at = subgroup * 4u + own_head;
    return vec4(
        //!repeat 4 c
        states[at ^ {c}u].x,
        //!end
    );
}

// What the lanes of a token have, one a head, in this lane's order.
fn heads_of(value: f32) -> vec4<f32> {
    return vec4(
        value,
        //!repeat 1..4 c
        subgroupShuffleXor(value, {c}u),
        //!end
    );
}

// The products of up to four tokens with four heads' queries, of one lane's dimensions.
struct Round {
    //!repeat 4 x
    v{x}: vec4<f32>,
    //!end
}

// The team's sum of one of them, by halving: each lane keeps half of what it has and is given its neighbour's share of that.
fn logit_of(x: Round) -> f32 {
    var a = x.v0;
    var b = x.v1;
    if ROUND == 4u {
        a += subgroupShuffleXor(x.v2, 8u);
        b += subgroupShuffleXor(x.v3, 8u);
    }
    let four = a + subgroupShuffleXor(b, 4u);
    let two = four.xy + subgroupShuffleXor(four.zw, 2u);
    return two.x + subgroupShuffleXor(two.y, 1u);
}
