// Merges the partial states of a row's splits and segments into its attention output: with M = max m,
// out = sum exp(m - M) o / sum exp(m - M) l. Grid: (query heads, rows).
//!include lib/lane.wgsl
//!include lib/step.wgsl

const WORKGROUP: u32 = 64u;

struct Merge {
    // Segments that have states, the first of as many as there is room for.
    segments: u32,
    count: u32,
}

@group(0) @binding(1) var<uniform> merge: Merge;
@group(0) @binding(2) var<storage, read> partial_o: array<f32>;
@group(0) @binding(3) var<storage, read> partial_ml: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

var<workgroup> states: array<vec2<f32>, WORKGROUP>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = lane_of(local, WORKGROUP);
    let head = group.y * KV_HEADS * GROUP + group.x;
    let parts = merge.segments * step[H_SPLITS];
    let first = head * merge.count * step[H_SPLITS];

    // Each lane folds every 64th state, then the lanes' states are folded by a tree.
    var state = vec2(-1.0e30, 0.0);
    for (var i = lane; i < parts; i += WORKGROUP) {
        state = fold(state, partial_ml[first + i]);
    }
    states[lane] = state;
    workgroupBarrier();
    for (var half = WORKGROUP / 2u; half > 0u; half = half / 2u) {
        if lane < half {
            states[lane] = fold(states[lane], states[lane + half]);
        }
        workgroupBarrier();
    }
    let total = states[0];
    for (var dimension = lane; dimension < VALUE_DIM; dimension += WORKGROUP) {
        var sum = 0.0;
        for (var i = 0u; i < parts; i++) {
            sum += exp(partial_ml[first + i].x - total.x) * partial_o[(first + i) * VALUE_DIM + dimension];
        }
        out[head * VALUE_DIM + dimension] = sum / total.y;
    }
}

fn fold(a: vec2<f32>, b: vec2<f32>) -> vec2<f32> {
    let m = max(a.x, b.x);
    return vec2(m, a.y * exp(a.x - m) + b.y * exp(b.x - m));
}
