// Merges the partial states of a row's splits and segments into its attention output: with M = max m,
// out = sum exp(m - M) o / sum exp(m - M) l. A workgroup makes up to 128 dimensions of a head; its teams of lanes, a vec4 each,
// share the states. Grid: (query heads, rows, ceil(VALUE_DIM / 128)).
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include <reduce>

struct Merge {
    // Segments that have states, the first of as many as there is room for.
    segments: u32,
    count: u32,
}

@group(0) @binding(1) var<uniform> merge: Merge;
@group(0) @binding(2) var<storage, read> partial_o: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> partial_ml: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read_write> out: array<vec4<f32>>;

const TEAM: u32 = 32u;
const TEAMS: u32 = WORKGROUP / TEAM;
const VECS: u32 = VALUE_DIM / 4u;

// exp(m - M) of as many states as there are lanes.
var<workgroup> factors: array<f32, WORKGROUP>;
// Each team's sum.
var<workgroup> sums: array<vec4<f32>, WORKGROUP>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = lane_of(local, WORKGROUP);
    let team = lane / TEAM;
    let head = group.y * KV_HEADS * GROUP + group.x;
    let own = group.z * TEAM + lane % TEAM;
    let vec = min(own, VECS - 1u);
    let parts = merge.segments * step[H_SPLITS];
    let first = head * merge.count * step[H_SPLITS];

    var largest = -1.0e30;
    for (var i = lane; i < parts; i += WORKGROUP) {
        largest = max(largest, partial_ml[first + i].x);
    }
    largest = workgroup_max(lane, largest);
    var l = 0.0;
    var o = vec4(0.0);
    for (var begin = 0u; begin < parts; begin += WORKGROUP) {
        let count = min(WORKGROUP, parts - begin);
        workgroupBarrier();
        if lane < count {
            let state = partial_ml[first + begin + lane];
            let factor = exp(state.x - largest);
            factors[lane] = factor;
            l += state.y * factor;
        }
        workgroupBarrier();
        // Two at a time, so that a lane does not wait for each; added one by one, so that empty states change no bits.
        var i = team;
        for (; i + TEAMS < count; i += 2u * TEAMS) {
            let a = partial_o[(first + begin + i) * VECS + vec];
            let b = partial_o[(first + begin + i + TEAMS) * VECS + vec];
            o += factors[i] * a;
            o += factors[i + TEAMS] * b;
        }
        if i < count {
            o += factors[i] * partial_o[(first + begin + i) * VECS + vec];
        }
    }
    let total = workgroup_sum(lane, l);
    sums[lane] = o;
    workgroupBarrier();
    if lane < TEAM && own < VECS {
        for (var i = 1u; i < TEAMS; i++) {
            o += sums[i * TEAM + lane];
        }
        out[head * VECS + vec] = o / total;
    }
}
