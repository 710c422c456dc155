// Level 2: the approximate logit of every token of the chosen blocks, per query head, from the same codes. One slot says what is kept
// of it.
// Grid: (ceil(blocks kept / BLOCKS) * PARTS, KV heads, rows).
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include lib/budget.wgsl
//!include <kv>
//!include lib/channels.wgsl
//!include lib/codes.wgsl
//!include lib/code_logits.wgsl
//!include <kept>

struct Scores {
    // Scores from one query head to the next.
    stride: u32,
}

// [row][KV head][H_BLOCKS_KEPT]: logical blocks, ascending
@group(0) @binding(5) var<storage, read> chosen_blocks: array<u32>;
// By place among the candidates: chosen block by chosen block
@group(0) @binding(6) var<storage, read_write> scores: array<f32>;
@group(0) @binding(7) var<uniform> score_rows: Scores;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = lane_of(local, WORKGROUP);
    let kv_head = group.y;
    let row = group.z;
    let chosen = blocks_chosen(row);
    let first_choice = group.x / PARTS * BLOCKS;
    let first = group.x % PARTS * HEADS;
    if first_choice >= chosen {
        return;
    }
    let place = lane / LANES;
    let choice = first_choice + place;
    let block = chosen_blocks[(row * KV_HEADS + kv_head) * step[H_BLOCKS_KEPT] + min(choice, chosen - 1u)];
    let slot = row_block(row, block) - segment.first;
    let is_here = choice < chosen && slot < segment.blocks;
    // The segment's first block stands for one that is not here, so that the loads need no branch.
    let some_slot = select(0u, slot, is_here);
    let tokens = lane_codes(lane, some_slot, kv_head);
    quantise_queries(lane, row, kv_head, first, index_at(some_slot, kv_head));
    if !is_here {
        return;
    }
    let first_token = choice * BLOCK + lane % LANES;
    for (var quad = 0u; quad < QUADS; quad++) {
        var logits = quad_logits(place, quad, tokens);
        //!repeat QUAD h
        let query{h} = quad * QUAD{+h};
        if query{h} < HEADS {
            let head = row * Q_HEADS + kv_head * GROUP + first + query{h};
            let term = term_of(place, quad, {h}u);
            let weight = head_weight(head);
            for (var t = 0u; t < TOKENS; t++) {
                keep_logit(head, t, first_token + t * LANES, weight, capped(term.x + term.y * logits[t][{h}]));
            }
        }
        //!end
    }
    for (var t = 0u; t < TOKENS; t++) {
        store_rank(row, kv_head, t, first_token + t * LANES);
    }
}
