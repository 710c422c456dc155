// Folds the rotated queries and keys of a span's rows into the running extremes that choose the index channels:
// max |q| per query head and dimension, max |k| of the cached (f16) key per KV head and dimension. Only the first
// STATS_TOKENS positions count. A span that begins at position 0 starts afresh. Grid: (KV heads, spans).
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
    let span = step[H_SPANS_AT] + group.y * 4u;
    let first_row = step[span + 1u];
    let first_position = step[span + 3u];
    if first_position >= STATS_TOKENS {
        return;
    }
    let rows = min(step[span + 2u], STATS_TOKENS - first_position);
    let stats_at = (step[span] * KV_HEADS + kv_head) * (GROUP + 1u) * HEAD_DIM;
    for (var dimension = lane_of(local, WORKGROUP); dimension < HEAD_DIM; dimension += WORKGROUP) {
        for (var h = 0u; h < GROUP; h++) {
            let at = stats_at + h * HEAD_DIM + dimension;
            var largest = select(stats[at], 0.0, first_position == 0u);
            for (var r = 0u; r < rows; r++) {
                largest = max(largest, abs(qkv[(first_row + r) * ROW_WIDTH + (kv_head * GROUP + h) * HEAD_DIM + dimension]));
            }
            stats[at] = largest;
        }
        let at = stats_at + GROUP * HEAD_DIM + dimension;
        var largest = select(stats[at], 0.0, first_position == 0u);
        for (var r = 0u; r < rows; r++) {
            let key = qkv[(first_row + r) * ROW_WIDTH + (Q_HEADS + kv_head) * HEAD_DIM + dimension];
            largest = max(largest, abs(unpack2x16float(kv_pack(key, 0.0)).x));
        }
        stats[at] = largest;
    }
}
