// As rank_softmax.wgsl, with sums of each subgroup that all others add up where they need them.
//!include lib/rank_terms.wgsl

// Of each quad and subgroup, the largest scores and the sums of exponentials relative to them.
var<workgroup> largest: array<vec4<f32>, QUADS * SUBGROUPS>;
var<workgroup> exponentials: array<vec4<f32>, QUADS * SUBGROUPS>;

fn sum_exponentials(lane: u32, row: u32, kv_head: u32, items: u32) {
    let first_score = (row * KV_HEADS + kv_head) * GROUP * score_rows.stride;
    for (var quad = 0u; quad < QUADS; quad++) {
        let own = exponentials_of_lane(lane, first_score, quad, items);
        let all = butterfly_max4(own.most, SUBGROUP);
        let sum = butterfly_sum4(own.sum * exp(own.most - all), SUBGROUP);
        if lane % SUBGROUP == 0u {
            largest[quad * SUBGROUPS + lane / SUBGROUP] = all;
            exponentials[quad * SUBGROUPS + lane / SUBGROUP] = sum;
        }
    }
}

fn rank_terms(lane: u32, row: u32, kv_head: u32, items: u32) -> RankTerms {
    let member = lane % SUBGROUP;
    var terms = RankTerms();
    for (var quad = 0u; quad < QUADS; quad++) {
        let own = largest[quad * SUBGROUPS + member % SUBGROUPS];
        let most = butterfly_max4(own, SUBGROUP);
        let part = exponentials[quad * SUBGROUPS + member % SUBGROUPS] * exp(own - most);
        let sums = butterfly_sum4(select(vec4(0.0), part, member < SUBGROUPS), SUBGROUP);
        terms.largest[quad] = most;
        terms.factors[quad] = head_factors(quad, sums);
    }
    return terms;
}

// The ranks of AT_ONCE items, LANES apart from this one on.
fn rank_items(terms: RankTerms, row: u32, kv_head: u32, item: u32, items: u32) -> array<f32, AT_ONCE> {
    var t = terms;
    let first_score = (row * KV_HEADS + kv_head) * GROUP * score_rows.stride;
    //!repeat AT_ONCE j
    var s{j} = 0.0;
    //!end
    for (var quad = 0u; quad < QUADS; quad++) {
        //!repeat AT_ONCE j
        let x{j} = four_scores(first_score, quad, min(item{+j*LANES}, items - 1u));
        //!end
        //!repeat AT_ONCE j
        s{j} += dot(exp(x{j} - t.largest[quad]), t.factors[quad]);
        //!end
    }
    return array<f32, AT_ONCE>(
        //!repeat AT_ONCE j
        s{j},
        //!end
    );
}
