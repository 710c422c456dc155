// Level 1: a sealed block's score per query head is ln sum exp of its tokens' approximate logits, so that the softmax over
// blocks is an estimate of the blocks' attention mass. The index is the largest read of a step, so a lane loads
// the codes of all of its tokens before anything else, once for all heads of the group.
// Grid: (ceil(most sealed blocks of a row / BLOCKS) * PARTS, KV heads, rows).
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include lib/budget.wgsl
//!include <kv>
//!include lib/channels.wgsl
//!include lib/codes.wgsl
//!include lib/code_logits.wgsl

struct Scores {
    // Scores from one query head to the next.
    stride: u32,
}

// [row][query head][stride], by logical block
@group(0) @binding(5) var<storage, read_write> scores: array<f32>;
@group(0) @binding(6) var<uniform> score_rows: Scores;

// One where a block is sealed and in this segment. Not bool: an array of bools in workgroup memory lost elements on an
// H100 (Vulkan, driver 580).
var<workgroup> is_scored: array<u32, BLOCKS>;

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
    if lane % LANES == 0u {
        is_scored[place] = u32(is_here);
    }
    // The segment's first block stands for one that is not here, so that the loads need no branch.
    let some_slot = select(0u, slot, is_here);
    let tokens = lane_codes(lane, some_slot, kv_head);
    quantise_queries(lane, row, kv_head, first, index_at(some_slot, kv_head));
    for (var quad = 0u; quad < QUADS; quad++) {
        let logits = quad_logits(place, quad, tokens);
        //!repeat QUAD h
        keep_sum(lane, quad * QUAD{+h}, logits, {h}u);
        //!end
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
            let head = row * Q_HEADS + kv_head * GROUP + first + h;
            scores[head * score_rows.stride + first_block + scored] = capped(term.x + term.y * best) + log(sum);
        }
    }
}

// Of the lane's tokens, for one query: the largest integer logit, and the sum of exponentials relative to it. `h` is the query's place in
// its quad.
fn keep_sum(lane: u32, query: u32, logits: array<vec4<f32>, TOKENS>, h: u32) {
    if query >= HEADS {
        return;
    }
    var own = logits;
    let term = terms[lane / LANES * HEADS + query];
    var best = own[0][h];
    for (var t = 1u; t < TOKENS; t++) {
        best = max(best, own[t][h]);
    }
    var sum = 0.0;
    for (var t = 0u; t < TOKENS; t++) {
        sum += exp(capped_difference(term, own[t][h], best));
    }
    pairs[query * WORKGROUP + lane] = vec2(best, sum);
}
