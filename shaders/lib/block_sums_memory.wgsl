// The sums of a block's lanes, joined through workgroup memory where join_memory.wgsl has its pairs.

// One where a block is sealed and in this segment. Not bool: an array of bools in workgroup memory lost elements on an
// H100 (Vulkan, driver 580).
var<workgroup> is_scored: array<u32, BLOCKS>;

// What a lane's exponentials are relative to, of the largest integer logit among its own tokens, by query of a quad.
fn joint_best(own: vec4<f32>) -> vec4<f32> {
    return own;
}

fn join_sums(lane: u32, quad: u32, best: vec4<f32>, sum: vec4<f32>) {
    keep_pairs(lane, quad, best, sum);
}

// Every lane must call, once all sums are joined: `is_here` where its block is scored. Heads are those of all rows.
fn store_scores(lane: u32, is_here: bool, first_head: u32, first_block: u32) {
    if lane % LANES == 0u {
        is_scored[lane / LANES] = u32(is_here);
    }
    workgroupBarrier();
    // One lane a score, neighbouring lanes neighbouring blocks. It starts at its own place among the block's lanes, so
    // that lanes meet different banks.
    for (var item = lane; item < HEADS * BLOCKS; item += WORKGROUP) {
        let scored = item % BLOCKS;
        if is_scored[scored] == 1u {
            let h = item / BLOCKS;
            let term = terms[scored * HEADS + h];
            let at = h * WORKGROUP + scored * LANES;
            var best = pairs[at + item % LANES].x;
            for (var i = 1u; i < LANES; i++) {
                best = max(best, pairs[at + (item + i) % LANES].x);
            }
            var sum = 0.0;
            for (var i = 0u; i < LANES; i++) {
                let state = pairs[at + (item + i) % LANES];
                sum += state.y * exp(capped_difference(term, state.x, best));
            }
            scores[(first_head + h) * score_rows.stride + first_block + scored] = capped(term.x + term.y * best) + log(sum);
        }
    }
}
