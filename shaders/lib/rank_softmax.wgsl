// Scores are softmaxed per query head over all items and averaged over the group: s_i = (1/G) sum_h softmax_h(x_h)[i].
//!include lib/rank_terms.wgsl

// Every lane must call.
fn rank_terms(lane: u32, row: u32, kv_head: u32, items: u32) -> RankTerms {
    let first_score = (row * KV_HEADS + kv_head) * GROUP * score_rows.stride;
    var terms = RankTerms();
    for (var quad = 0u; quad < QUADS; quad++) {
        let own = exponentials_of_lane(lane, first_score, quad, items);
        let most = lanes_max4(lane, own.most);
        let sum = lanes_sum4(lane, own.sum * exp(own.most - most));
        terms.largest[quad] = most;
        terms.factors[quad] = head_factors(quad, sum);
    }
    return terms;
}

fn rank_items(terms: RankTerms, lane: u32, row: u32, kv_head: u32, items: u32, range: vec2<u32>) {
    var t = terms;
    let keys_at = (row * KV_HEADS + kv_head) * score_rows.stride;
    let first_score = (row * KV_HEADS + kv_head) * GROUP * score_rows.stride;
    for (var i = range.x + lane; i < range.y; i += LANES * AT_ONCE) {
        //!repeat AT_ONCE j
        var s{j} = 0.0;
        //!end
        for (var quad = 0u; quad < QUADS; quad++) {
            //!repeat AT_ONCE j
            let x{j} = four_scores(first_score, quad, min(i{+j*LANES}, items - 1u));
            //!end
            //!repeat AT_ONCE j
            s{j} += dot(exp(x{j} - t.largest[quad]), t.factors[quad]);
            //!end
        }
        //!repeat AT_ONCE j
        if i{+j*LANES} < range.y {
            keys[keys_at + i{+j*LANES}] = item_key(row, kv_head, i{+j*LANES}, ordered_key(s{j}));
        }
        //!end
    }
}
