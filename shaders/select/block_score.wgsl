// Level 1: a sealed block's score per query head is ln sum exp of its tokens' approximate logits, so that the softmax over
// blocks is an estimate of the blocks' attention mass. The index is the largest read of a step, so a lane loads
// the codes of all of its tokens before anything else, once for all heads of the group. One slot says how a block's lanes join
// their sums.
// Grid: (ceil(most sealed blocks of a row / BLOCKS) * PARTS, KV heads, rows).
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include lib/budget.wgsl
//!include <kv>
//!include lib/channels.wgsl
//!include lib/codes.wgsl
//!include lib/code_logits.wgsl
//!include <sums>

struct Scores {
    // Scores from one query head to the next.
    stride: u32,
}

// [row][query head][stride], by logical block
@group(0) @binding(5) var<storage, read_write> scores: array<f32>;
@group(0) @binding(6) var<uniform> score_rows: Scores;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = lane_of(local, WORKGROUP);
    let kv_head = group.y;
    let row = group.z;
    let sealed = sealed_blocks(row);
    let first_block = group.x / PARTS * BLOCKS;
    let first = group.x % PARTS * HEADS;
    if first_block >= sealed {
        return;
    }
    let place = lane / LANES;
    let block = first_block + place;
    let slot = row_block(row, min(block, sealed - 1u)) - segment.first;
    let is_here = block < sealed && slot < segment.blocks;
    // The segment's first block stands for one that is not here, so that the loads need no branch.
    let some_slot = select(0u, slot, is_here);
    let tokens = lane_codes(lane, some_slot, kv_head);
    quantise_queries(lane, row, kv_head, first, index_at(some_slot, kv_head));
    for (var quad = 0u; quad < QUADS; quad++) {
        let logits = quad_logits(place, quad, tokens);
        var best = logits[0];
        for (var t = 1u; t < TOKENS; t++) {
            best = max(best, logits[t]);
        }
        best = joint_best(best);
        var sum = vec4(0.0);
        for (var t = 0u; t < TOKENS; t++) {
            //!repeat QUAD h
            sum[{h}] += exp(capped_difference(term_of(place, quad, {h}u), logits[t][{h}], best[{h}]));
            //!end
        }
        join_sums(lane, quad, best, sum);
    }
    store_scores(lane, is_here, row * Q_HEADS + kv_head * GROUP + first, first_block);
}
