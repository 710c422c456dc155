// Level 1: a closed block's score per query head is the largest logit of its tokens' codes. Four blocks a workgroup,
// 16 lanes a block, BLOCK / 16 tokens a lane. Grid: (ceil(most closed blocks of a row / 4), KV heads, rows).
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include lib/budget.wgsl
//!include <kv>
//!include lib/codes.wgsl
//!include lib/code_logits.wgsl

const WORKGROUP: u32 = 64u;

struct Scores {
    // Scores from one query head to the next.
    stride: u32,
}

// [row][query head][stride], by logical block
@group(0) @binding(5) var<storage, read_write> scores: array<f32>;
@group(0) @binding(6) var<uniform> score_rows: Scores;

var<workgroup> largest: array<i32, WORKGROUP * GROUP>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = lane_of(local, WORKGROUP);
    let kv_head = group.y;
    let row = group.z;
    let first_head = row * Q_HEADS + kv_head * GROUP;
    let closed = closed_blocks(row);
    if group.x * 4u >= closed {
        return;
    }
    let block = min(group.x * 4u + lane / 16u, closed - 1u);
    let slot = row_block(row, block) - segment.first;
    if slot < segment.blocks {
        for (var h = 0u; h < GROUP; h++) {
            let query = query_of(first_head + h);
            var best = -0x7fffffff;
            for (var token = lane % 16u; token < BLOCK; token += 16u) {
                best = max(best, code_logit(query, code_row(slot, kv_head, token)));
            }
            largest[h * WORKGROUP + lane] = best;
        }
    }
    workgroupBarrier();
    // Lane h of a block's sixteen finishes head h.
    let h = lane % 16u;
    if slot < segment.blocks && h < GROUP && group.x * 4u + lane / 16u < closed {
        var best = largest[h * WORKGROUP + lane / 16u * 16u];
        for (var i = 1u; i < 16u; i++) {
            best = max(best, largest[h * WORKGROUP + lane / 16u * 16u + i]);
        }
        let head = first_head + h;
        scores[head * score_rows.stride + block] = query_scales[head] * f32(best);
    }
}
