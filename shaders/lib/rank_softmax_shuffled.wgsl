// As rank_softmax.wgsl, with sums of each subgroup that all others add up where they need them.
//!include lib/four_scores.wgsl
const QUADS: u32 = (GROUP + 3u) / 4u;

// Of each quad and subgroup, the largest scores and the sums of exponentials relative to them.
var<workgroup> largest: array<vec4<f32>, QUADS * SUBGROUPS>;
var<workgroup> exponentials: array<vec4<f32>, QUADS * SUBGROUPS>;

fn sum_exponentials(lane: u32, row: u32, kv_head: u32, items: u32) {
    let first_score = (row * KV_HEADS + kv_head) * GROUP * score_rows.stride;
    for (var quad = 0u; quad < QUADS; quad++) {
        // Several items at a time, so that a lane does not wait for each of its scores; sums are relative to the largest so far.
        var most = vec4(-3.0e38);
        var sum = vec4(0.0);
        for (var i = lane; i < items; i += LANES * 4u) {
            //!repeat 4 j
            let x{j} = four_scores(first_score, quad, min(i{+j*LANES}, items - 1u));
            //!end
            var next = most;
            //!repeat 4 j
            next = max(next, x{j});
            //!end
            if any(next > most) {
                sum *= exp(most - next);
                most = next;
            }
            //!repeat 4 j
            sum += select(vec4(0.0), exp(x{j} - most), i{+j*LANES} < items);
            //!end
        }
        let all = subgroupMax(most);
        sum = subgroupAdd(sum * exp(most - all));
        if lane % SUBGROUP == 0u {
            largest[quad * SUBGROUPS + lane / SUBGROUP] = all;
            exponentials[quad * SUBGROUPS + lane / SUBGROUP] = sum;
        }
    }
}

// The ranks of AT_ONCE items, LANES apart from this one on.
fn rank_items(member: u32, row: u32, kv_head: u32, item: u32, items: u32) -> array<f32, AT_ONCE> {
    let first_score = (row * KV_HEADS + kv_head) * GROUP * score_rows.stride;
    //!repeat AT_ONCE j
    var s{j} = 0.0;
    //!end
    for (var quad = 0u; quad < QUADS; quad++) {
        //!repeat AT_ONCE j
        let x{j} = four_scores(first_score, quad, min(item{+j*LANES}, items - 1u));
        //!end
        let own = largest[quad * SUBGROUPS + member % SUBGROUPS];
        let most = subgroupMax(own);
        let part = exponentials[quad * SUBGROUPS + member % SUBGROUPS] * exp(own - most);
        let factors = head_factors(quad, subgroupAdd(select(vec4(0.0), part, member < SUBGROUPS)));
        //!repeat AT_ONCE j
        s{j} += dot(exp(x{j} - most), factors);
        //!end
    }
    return array<f32, AT_ONCE>(
        //!repeat AT_ONCE j
        s{j},
        //!end
    );
}
