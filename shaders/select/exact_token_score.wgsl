// Level 2's oracle: the exact logit of every token of the chosen blocks, per query head. One block a workgroup.
// Grid: (blocks kept, KV heads, rows).
//!include lib/step.wgsl
//!include lib/budget.wgsl
//!include <kv>
//!include lib/exact_logits.wgsl

const WORKGROUP: u32 = 64u;

struct Scores {
    // Scores from one query head to the next.
    stride: u32,
}

// [row][KV head][H_BLOCKS_KEPT]: logical blocks, ascending
@group(0) @binding(4) var<storage, read> chosen_blocks: array<u32>;
// [row][query head][stride], by place among the candidates: chosen block by chosen block
@group(0) @binding(5) var<storage, read_write> scores: array<f32>;
@group(0) @binding(6) var<uniform> score_rows: Scores;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let choice = group.x;
    let kv_head = group.y;
    let row = group.z;
    if choice >= blocks_chosen(row) {
        return;
    }
    let block = chosen_blocks[(row * KV_HEADS + kv_head) * step[H_BLOCKS_KEPT] + choice];
    let slot = row_block(row, block) - segment.first;
    if slot >= segment.blocks {
        return;
    }
    for (var h = 0u; h < GROUP; h++) {
        let head = kv_head * GROUP + h;
        let to = (row * Q_HEADS + head) * score_rows.stride + choice * BLOCK;
        for (var token = lane; token < BLOCK; token += WORKGROUP) {
            scores[to + token] = exact_logit(row, head, kv_row(slot, kv_head, KEYS, token));
        }
    }
}
