// Decode attention of one row over one split of its tokens where values have rows of their own.
//
// Work is in tiles of 64 tokens, lane = token. A team of LANES lanes reads one token's row together, one or two vec4 (of
// eight f16) a lane, and owns the 64 / TEAMS tokens of its own lanes.
// Grid: (splits, KV heads * QUADS, rows).
//!include lib/quad_eights.wgsl
//!include <cap>

const WORKGROUP: u32 = 64u;
// Twice as many for heads of more than 128 dimensions: a lane's registers hold the queries and outputs of two vec4.
const LANES: u32 = min(8u, ROW_VECS) * ((HEAD_DIM + 127u) / 128u);
const TEAMS: u32 = WORKGROUP / LANES;
const PARTS: u32 = (ROW_VECS + LANES - 1u) / LANES;
// Tokens of a team whose partial dot products fit into workgroup memory at a time.
const ROUND: u32 = min(8u, LANES);

// Partial dot products [team][token of the round][lane], then accumulators [team][lane][8 dimensions].
var<workgroup> scratch: array<vec4<f32>, 512>;
// Where the tile's keys begin, in vec4; NOWHERE for tokens past the end or in another segment.
var<workgroup> key_rows: array<u32, WORKGROUP>;
// Logits, then probabilities, of the tile's tokens.
var<workgroup> weights: array<vec4<f32>, WORKGROUP>;

fn query8(at: u32, quad: u32) -> Eight {
    return Eight(
        //!repeat 8 i
        query(at{+i}, quad, 0u),
        //!end
    );
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = lane_of(local, WORKGROUP);
    let split = group.x;
    let kv_head = group.y / QUADS;
    let quad = group.y % QUADS;
    let row = row_of(group.z);
    let member = lane % LANES;
    let team = lane / LANES;
    let total = token_count(row, kv_head);
    let split_tokens = split_tiles((total + WORKGROUP - 1u) / WORKGROUP) * WORKGROUP;
    let begin = min(split * split_tokens, total);
    let end = min(begin + split_tokens, total);

    // This lane's share of the queries and outputs: one vec4 of a row, and where the row has as many, a second.
    let second = min(member + (PARTS - 1u) * LANES, ROW_VECS - 1u);
    let has_second = PARTS > 1u && (ROW_VECS % LANES == 0u || member + LANES < ROW_VECS);
    let q_at = row * ROW_WIDTH + kv_head * GROUP * HEAD_DIM;
    let q0 = query8(q_at + member * 8u, quad);
    let q1 = query8(q_at + second * 8u, quad);
    var o0 = Eight();
    var o1 = Eight();
    var m = vec4(NOTHING);
    var l = vec4(0.0);

    for (var tile = begin; tile < end; tile += WORKGROUP) {
        // This lane's own token; only its team reads it, but a team may span subgroups.
        let own = key_row(row, kv_head, tile + lane, end);
        let counts = own != NOWHERE;
        key_rows[lane] = own;
        workgroupBarrier();
        // The logit of this lane's own token.
        var logit = vec4(0.0);
        for (var round = 0u; round < LANES; round += ROUND) {
            for (var i = 0u; i < ROUND; i++) {
                let at = key_rows[team * LANES + round + i];
                var products = dot8(q0, load8(at, member));
                if PARTS > 1u {
                    products += select(vec4(0.0), dot8(q1, load8(at, second)), has_second);
                }
                scratch[(team * ROUND + i) * LANES + member] = products;
            }
            workgroupBarrier();
            if LANES == ROUND || member / ROUND == round / ROUND {
                let mine = (team * ROUND + member % ROUND) * LANES;
                for (var i = 0u; i < LANES; i++) {
                    logit += scratch[mine + i];
                }
            }
            if LANES > ROUND {
                workgroupBarrier();
            }
        }
        logit = capped4(logit);
        weights[lane] = select(vec4(NOTHING), logit, counts);
        workgroupBarrier();
        var largest = weights[team * LANES];
        for (var i = 1u; i < LANES; i++) {
            largest = max(largest, weights[team * LANES + i]);
        }
        let next = max(m, largest);
        let rescale = exp(m - next);
        m = next;
        workgroupBarrier();
        let weight = select(vec4(0.0), exp(logit - m), counts);
        weights[lane] = weight;
        l = l * rescale + weight;
        workgroupBarrier();
        o0 = scale8(o0, rescale);
        o1 = scale8(o1, rescale);
        for (var i = 0u; i < LANES; i++) {
            let at = key_rows[team * LANES + i];
            let w = weights[team * LANES + i];
            o0 = add8(o0, w, $value8(load8)(at, KEY_TO_VALUE + member));
            if PARTS > 1u {
                o1 = add8(o1, w, $value8(load8)(at, KEY_TO_VALUE + second));
            }
        }
        // The next tile overwrites what this one reads.
        workgroupBarrier();
    }

    // Merge the teams: their maxima first, then sums and accumulators scaled to the common maximum. What the last tile left has
    // been read: each tile ends with a barrier.
    weights[lane] = m;
    workgroupBarrier();
    var joint = weights[0];
    for (var i = 1u; i < TEAMS; i++) {
        joint = max(joint, weights[i * LANES]);
    }
    workgroupBarrier();
    let rescale = exp(m - joint);
    weights[lane] = l * rescale;
    workgroupBarrier();
    if member == 0u {
        for (var i = 1u; i < LANES; i++) {
            weights[lane] += weights[lane + i];
        }
    }
    workgroupBarrier();
    let splits = step[H_SPLITS];
    let heads = min(4u, GROUP - quad * 4u);
    let first = ((row * Q_HEADS + kv_head * GROUP + quad * 4u) * segment.count + segment.index) * splits + split;
    if lane == 0u {
        var sum = weights[0];
        for (var i = 1u; i < TEAMS; i++) {
            sum += weights[i * LANES];
        }
        for (var h = 0u; h < heads; h++) {
            partial_ml[first + h * segment.count * splits] = vec2(joint[h], sum[h]);
        }
    }
    stage8(lane, scale8(o0, rescale));
    write_outputs(lane, first, heads, splits, 0u);
    if LANES * 8u < VALUE_DIM {
        stage8(lane, scale8(o1, rescale));
        write_outputs(lane, first, heads, splits, LANES * 8u);
    }
}

fn stage8(lane: u32, o: Eight) {
    let at = lane * 8u;
    //!repeat 8 i
    scratch[at{+i}] = o.v{i};
    //!end
    workgroupBarrier();
}

// Sums a part's dimensions over the teams and writes them for each head.
fn write_outputs(lane: u32, first: u32, heads: u32, splits: u32, dimension: u32) {
    for (var i = lane; i < min(LANES * 8u, VALUE_DIM - dimension); i += WORKGROUP) {
        var sum = scratch[i];
        for (var t = 1u; t < TEAMS; t++) {
            sum += scratch[t * LANES * 8u + i];
        }
        for (var h = 0u; h < heads; h++) {
            partial_o[(first + h * segment.count * splits) * VALUE_DIM + dimension + i] = sum[h];
        }
    }
    workgroupBarrier();
}
