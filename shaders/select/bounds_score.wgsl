// Level 1 by the bounds of a block's keys, summed over the query group (AsyncTLS, arXiv 2604.07815, after Quest,
// arXiv 2406.10774). The sum is linear, so that with Qp = sum_h max(q_h, 0) and Qn = sum_h min(q_h, 0)
//   s = sum_h sum_c max(q_h[c] high[c], q_h[c] low[c]) = Qp . high + Qn . low
// One score a KV head, where the group's first query head's would be. Four blocks a workgroup, 16 lanes a block.
// Grid: (ceil(most sealed blocks of a row / 4), KV heads, rows).
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include lib/budget.wgsl
//!include <kv>
//!include lib/bounds.wgsl

const WORKGROUP: u32 = 64u;
const Q_HEADS: u32 = KV_HEADS * GROUP;

struct Scores {
    // Scores from one query head to the next.
    stride: u32,
}

@group(0) @binding(1) var<uniform> segment: Segment;
@group(0) @binding(2) var<storage, read> qkv: array<f32>;
@group(0) @binding(3) var<storage, read> bounds: array<vec4<u32>>;
// [row][query head][stride], by logical block
@group(0) @binding(4) var<storage, read_write> scores: array<f32>;
@group(0) @binding(5) var<uniform> score_rows: Scores;

// Qp, then Qn.
var<workgroup> queries: array<f32, 2u * HEAD_DIM>;
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
        var positive = 0.0;
        var negative = 0.0;
        for (var h = 0u; h < GROUP; h++) {
            let q = qkv[row * ROW_WIDTH + (kv_head * GROUP + h) * HEAD_DIM + c];
            positive += max(q, 0.0);
            negative += min(q, 0.0);
        }
        queries[c] = positive;
        queries[HEAD_DIM + c] = negative;
    }
    workgroupBarrier();
    let choice = group.x * 4u + lane / 16u;
    let block = min(choice, sealed - 1u);
    let slot = row_block(row, block) - segment.first;
    var sum = 0.0;
    if slot < segment.blocks {
        for (var i = lane % 16u; i < ROW_VECS; i += 16u) {
            let high = bounds[bounds_row(slot, kv_head, HIGH) + i];
            let low = bounds[bounds_row(slot, kv_head, LOW) + i];
            sum += dot(four_queries(i * 8u), kv_low(high)) + dot(four_queries(i * 8u + 4u), kv_high(high))
                + dot(four_queries(HEAD_DIM + i * 8u), kv_low(low))
                + dot(four_queries(HEAD_DIM + i * 8u + 4u), kv_high(low));
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
