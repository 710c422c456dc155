// Level 2: the logit of every token of the chosen blocks, per query head, from the same codes. Four blocks a workgroup,
// 16 lanes a block, BLOCK / 16 tokens a lane, so that a query is loaded once for several tokens.
// Grid: (ceil(blocks kept / 4), KV heads, rows).
//!include lib/step.wgsl
//!include lib/budget.wgsl
//!include <kv>
//!include lib/codes.wgsl
//!include lib/code_logits.wgsl

struct Scores {
    // Scores from one query head to the next.
    stride: u32,
}

// [row][KV head][H_BLOCKS_KEPT]: logical blocks, ascending
@group(0) @binding(5) var<storage, read> chosen_blocks: array<u32>;
// [row][query head][stride], by place among the candidates: chosen block by chosen block
@group(0) @binding(6) var<storage, read_write> scores: array<f32>;
@group(0) @binding(7) var<uniform> score_rows: Scores;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let choice = group.x * 4u + lane / 16u;
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
        let head = row * Q_HEADS + kv_head * GROUP + h;
        let query = query_of(head);
        let scale = query_scales[head];
        let to = head * score_rows.stride + choice * BLOCK;
        for (var token = lane % 16u; token < BLOCK; token += 16u) {
            scores[to + token] = scale * f32(code_logit(query, codes_of(code_row(slot, kv_head, token))));
        }
    }
}
