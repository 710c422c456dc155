// Level 1's oracle: a sealed block's score per query head is the logarithm of its tokens' summed exponentials, so that
// the softmax over blocks is the blocks' exact attention mass. One block a workgroup.
// Grid: (most sealed blocks of a row, KV heads, rows).
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include lib/budget.wgsl
//!include <kv>
//!include lib/exact_logits.wgsl

const WORKGROUP: u32 = 64u;

struct Scores {
    // Scores from one query head to the next.
    stride: u32,
}

// [row][query head][stride], by logical block
@group(0) @binding(4) var<storage, read_write> scores: array<f32>;
@group(0) @binding(5) var<uniform> score_rows: Scores;

var<workgroup> logits: array<f32, BLOCK>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = lane_of(local, WORKGROUP);
    let block = group.x;
    let kv_head = group.y;
    let row = group.z;
    if block >= sealed_blocks(row) {
        return;
    }
    let slot = row_block(row, block) - segment.first;
    if slot >= segment.blocks {
        return;
    }
    for (var h = 0u; h < GROUP; h++) {
        let head = kv_head * GROUP + h;
        for (var token = lane; token < BLOCK; token += WORKGROUP) {
            logits[token] = exact_logit(row, head, kv_row(slot, kv_head, KEYS, token));
        }
        workgroupBarrier();
        if lane == 0u {
            var largest = logits[0];
            for (var i = 1u; i < BLOCK; i++) {
                largest = max(largest, logits[i]);
            }
            var sum = 0.0;
            for (var i = 0u; i < BLOCK; i++) {
                sum += exp(logits[i] - largest);
            }
            scores[(row * Q_HEADS + head) * score_rows.stride + block] = largest + log(sum);
        }
        workgroupBarrier();
    }
}
