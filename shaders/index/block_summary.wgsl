// The summary of each sealed block: rows of values, dimension by dimension, which the slot makes of the block's keys.
// Lane = a pair of dimensions. Grid: (KV heads, blocks to seal).
//!include lib/step.wgsl
//!include <kv>
//!include lib/summary.wgsl
//!include <summarise>

@group(0) @binding(1) var<uniform> segment: Segment;
@group(0) @binding(2) var<storage, read> kv: array<u32>;
@group(0) @binding(3) var<storage, read_write> summary: array<u32>;
// The segment of the index, which is divided otherwise than keys and values.
@group(0) @binding(4) var<uniform> index_segment: Segment;

const WORKGROUP: u32 = 64u;
const ROW_WORDS: u32 = HEAD_DIM / 2u;

// A pair of dimensions of a token's key, where the block's first key has it at `first`.
fn key_pair(first: u32, token: u32) -> vec2<f32> {
    return unpack2x16float(kv[first + token * ROW_WORDS]);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let kv_head = group.x;
    let sealing = step[H_SEALING_AT] + group.y * C_WORDS;
    let index_slot = step[sealing + C_BLOCK] - index_segment.first;
    let slot = step[sealing + C_PLACE] - segment.first;
    if slot >= segment.blocks || index_slot >= index_segment.blocks {
        return;
    }
    let first = kv_row(slot, kv_head, KEYS, 0u) * 4u;
    for (var word = lane; word < ROW_WORDS; word += WORKGROUP) {
        var rows = summarise(first + word);
        for (var row = 0u; row < SUMMARY_ROWS; row++) {
            summary[summary_row(index_slot, kv_head, row) * 4u + word] = pack2x16float(rows[row]);
        }
    }
}
