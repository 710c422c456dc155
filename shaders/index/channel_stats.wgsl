// Folds the rotated queries and keys of a span's rows into the running extremes that choose the index channels:
// max |q| per query head and dimension, max |k| of the cached (f16) key per KV head and dimension. Only the first
// STATS_TOKENS positions count. A span that begins at position 0 starts afresh. Grid: (KV heads, spans,
// GROUP + 1).
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include <kv>

const WORKGROUP: u32 = 64u;
const Q_HEADS: u32 = KV_HEADS * GROUP;

@group(0) @binding(1) var<storage, read> qkv: array<f32>;
// [sequence slot][KV head][GROUP rows of max |q|, then max |k|][HEAD_DIM]
@group(0) @binding(2) var<storage, read_write> stats: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let kv_head = group.x;
    let span = step[H_SPANS_AT] + group.y * S_WORDS;
    let first_row = step[span + S_FIRST_ROW];
    let first_position = step[span + S_POSITION];
    if first_position >= STATS_TOKENS {
        return;
    }
    let rows = min(step[span + S_ROWS], STATS_TOKENS - first_position);
    // One of the group's queries, or the key.
    let member = group.z;
    let is_key = member == GROUP;
    let head = select(kv_head * GROUP + member, Q_HEADS + kv_head, is_key);
    let stats_at = ((step[span + S_SEQUENCE] * KV_HEADS + kv_head) * (GROUP + 1u) + member) * HEAD_DIM;
    for (var dimension = lane_of(local, WORKGROUP); dimension < HEAD_DIM; dimension += WORKGROUP) {
        let at = stats_at + dimension;
        var largest = select(stats[at], 0.0, first_position == 0u);
        for (var r = 0u; r < rows; r++) {
            let value = qkv[(first_row + r) * ROW_WIDTH + head * HEAD_DIM + dimension];
            largest = max(largest, select(abs(value), abs(unpack2x16float(kv_pack(value, 0.0)).x), is_key));
        }
        stats[at] = largest;
    }
}
