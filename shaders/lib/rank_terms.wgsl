// What softmaxes the scores of a group's query heads.
//!include lib/four_scores.wgsl
//!include <terms>
const QUADS: u32 = (GROUP + 3u) / 4u;

// Of each quad, the largest scores and what exponentials relative to them are multiplied by.
struct RankTerms {
    largest: array<vec4<f32>, QUADS>,
    factors: array<vec4<f32>, QUADS>,
}

fn keep_terms(lane: u32, row: u32, kv_head: u32, terms: RankTerms) {
    if lane > 0u {
        return;
    }
    var t = terms;
    for (var quad = 0u; quad < QUADS; quad++) {
        //!repeat 4 i
        let head{i} = quad * 4u{+i};
        if head{i} < GROUP {
            keep_term((row * KV_HEADS + kv_head) * GROUP + head{i}, vec2(t.largest[quad][{i}], t.factors[quad][{i}]));
        }
        //!end
    }
}
