// Level 1: a closed block's score per query head is the largest logit of its tokens' codes. The index is the largest
// read of a step, so a lane loads the codes of all of its tokens before anything else, once for all heads of the group,
// and queries wait in workgroup memory, where streaming codes cannot evict them. BLOCKS blocks a workgroup, 16 lanes a
// block, BLOCK / 16 tokens a lane. Grid: (ceil(most closed blocks of a row / BLOCKS), KV heads, rows).
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include lib/budget.wgsl
//!include <kv>
//!include lib/codes.wgsl
//!include lib/code_logits.wgsl

const LANES: u32 = 16u;
const WORKGROUP: u32 = BLOCKS * LANES;
const TOKENS: u32 = BLOCK / LANES;

struct Scores {
    // Scores from one query head to the next.
    stride: u32,
}

// [row][query head][stride], by logical block
@group(0) @binding(5) var<storage, read_write> scores: array<f32>;
@group(0) @binding(6) var<uniform> score_rows: Scores;

var<workgroup> queries: array<Query, GROUP>;
var<workgroup> largest: array<i32, WORKGROUP * GROUP>;
// One where a block is closed and in this segment. Not bool: an array of bools in workgroup memory lost elements on an
// H100 (Vulkan, driver 580).
var<workgroup> is_scored: array<u32, BLOCKS>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = lane_of(local, WORKGROUP);
    let kv_head = group.y;
    let row = group.z;
    let first_head = row * Q_HEADS + kv_head * GROUP;
    let closed = closed_blocks(row);
    if group.x * BLOCKS >= closed {
        return;
    }
    let block = group.x * BLOCKS + lane / LANES;
    let slot = row_block(row, min(block, closed - 1u)) - segment.first;
    let is_here = block < closed && slot < segment.blocks;
    if lane % LANES == 0u {
        is_scored[lane / LANES] = u32(is_here);
    }
    // The segment's first block stands for one that is not here, so that the loads need no branch.
    let first_token = code_row(select(0u, slot, is_here), kv_head, lane % LANES);
    var tokens = array<Codes, TOKENS>();
    for (var i = 0u; i < TOKENS; i++) {
        tokens[i] = codes_of(first_token + i * LANES * CODE_WORDS);
    }
    if lane < GROUP {
        queries[lane] = query_of(first_head + lane);
    }
    workgroupBarrier();
    for (var h = 0u; h < GROUP; h++) {
        let query = queries[h];
        var best = -0x7fffffff;
        for (var i = 0u; i < TOKENS; i++) {
            best = max(best, code_logit(query, tokens[i]));
        }
        largest[h * WORKGROUP + lane] = best;
    }
    workgroupBarrier();
    // One lane a score, neighbouring lanes neighbouring blocks. It starts at its own place among the block's lanes, so that
    // lanes meet different banks.
    for (var item = lane; item < GROUP * BLOCKS; item += WORKGROUP) {
        let place = item % BLOCKS;
        if is_scored[place] == 1u {
            var best = largest[item * LANES + item % LANES];
            for (var i = 1u; i < LANES; i++) {
                best = max(best, largest[item * LANES + (item + i) % LANES]);
            }
            let head = first_head + item / BLOCKS;
            scores[head * score_rows.stride + group.x * BLOCKS + place] = query_scales[head] * f32(best);
        }
    }
}
