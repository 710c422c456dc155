// Level 1 by summaries of blocks, summed over the query group: the slot folds a query into rows like those of the summary,
// and a block's score is their product. The sum over the group is linear, so it is of queries rather than of scores.
// One score a KV head, where the group's first query head's would be. Four blocks a workgroup, 16 lanes a block.
// Grid: (ceil(most sealed blocks of a row / 4), KV heads, rows).
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include lib/budget.wgsl
//!include <kv>
//!include lib/summary.wgsl
//!include <fold>

const WORKGROUP: u32 = 64u;
const Q_HEADS: u32 = KV_HEADS * GROUP;

struct Scores {
    // Scores from one query head to the next.
    stride: u32,
}

@group(0) @binding(1) var<uniform> segment: Segment;
@group(0) @binding(2) var<storage, read> qkv: array<f32>;
@group(0) @binding(3) var<storage, read> summary: array<vec4<u32>>;
// [row][query head][stride], by logical block
@group(0) @binding(4) var<storage, read_write> scores: array<f32>;
@group(0) @binding(5) var<uniform> score_rows: Scores;

// By row of the summary.
var<workgroup> queries: array<f32, SUMMARY_ROWS * HEAD_DIM>;
var<workgroup> sums: array<f32, WORKGROUP>;

fn four_queries(at: u32) -> vec4<f32> {
    return vec4(queries[at], queries[at + 1u], queries[at + 2u], queries[at + 3u]);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = lane_of(local, WORKGROUP);
    let kv_head = group.y;
    let row = group.z;
    let sealed = sealed_blocks(row);
    if group.x * 4u >= sealed {
        return;
    }
    for (var c = lane; c < HEAD_DIM; c += WORKGROUP) {
        var folded = array<f32, SUMMARY_ROWS>();
        for (var h = 0u; h < GROUP; h++) {
            var one = fold(qkv[row * ROW_WIDTH + (kv_head * GROUP + h) * HEAD_DIM + c]);
            for (var r = 0u; r < SUMMARY_ROWS; r++) {
                folded[r] += one[r];
            }
        }
        for (var r = 0u; r < SUMMARY_ROWS; r++) {
            queries[r * HEAD_DIM + c] = folded[r];
        }
    }
    workgroupBarrier();
    let choice = group.x * 4u + lane / 16u;
    let block = min(choice, sealed - 1u);
    let slot = row_block(row, block) - segment.first;
    var sum = 0.0;
    if slot < segment.blocks {
        for (var i = lane % 16u; i < ROW_VECS; i += 16u) {
            var products = 0.0;
            // The last row first.
            for (var r = SUMMARY_ROWS; r > 0u; r--) {
                let eight = summary[summary_row(slot, kv_head, r - 1u) + i];
                let at = (r - 1u) * HEAD_DIM + i * 8u;
                products += dot(four_queries(at), kv_low(eight));
                products += dot(four_queries(at + 4u), kv_high(eight));
            }
            sum += products;
        }
    }
    sums[lane] = sum;
    workgroupBarrier();
    if lane % 16u == 0u && slot < segment.blocks && choice < sealed {
        for (var i = 1u; i < 16u; i++) {
            sum += sums[lane + i];
        }
        scores[(row * KV_HEADS + kv_head) * GROUP * score_rows.stride + block] = sum;
    }
}
