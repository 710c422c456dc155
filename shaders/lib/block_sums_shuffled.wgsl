// As block_sums_memory.wgsl, where a block's lanes are in one subgroup.

// Of each quad of queries.
var<private> block_scores: array<vec4<f32>, QUADS>;

fn joint_best(own: vec4<f32>) -> vec4<f32> {
    return butterfly_max4(own, LANES);
}

fn join_sums(lane: u32, quad: u32, best: vec4<f32>, sum: vec4<f32>) {
    let all = butterfly_sum4(sum, LANES);
    //!repeat QUAD h
    let term{h} = term_of(lane / LANES, quad, {h}u);
    block_scores[quad][{h}] = capped(term{h}.x + term{h}.y * best[{h}]) + log(all[{h}]);
    //!end
}

// A lane a query.
fn store_scores(lane: u32, is_here: bool, first_head: u32, first_block: u32) {
    let part = lane % LANES;
    for (var quad = 0u; quad < QUADS; quad++) {
        let query = quad * QUAD + part;
        if is_here && part < QUAD && query < HEADS {
            scores[(first_head + query) * score_rows.stride + first_block + lane / LANES] = block_scores[quad][part];
        }
    }
}
