// The best of PART values of each row, as key and place: what arg_max chooses among.
// Grid: (parts of a row, rows).
//!include lib/lane.wgsl
//!include lib/ordered_key.wgsl
//!include lib/arg_max.wgsl

const LANE_VALUES: u32 = PART / WORKGROUP;

struct ArgMax {
    width: u32,
    stride: u32,
}

@group(0) @binding(0) var<uniform> arg_max: ArgMax;
@group(0) @binding(1) var<storage, read> values: array<f32>;
// [row][part]
@group(0) @binding(2) var<storage, read_write> parts: array<vec2<u32>>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = lane_of(local, WORKGROUP);
    let first = group.x * PART + lane;
    let row_at = group.y * arg_max.stride;
    // What is beyond the row is its last value again.
    var mine = vec2(0u, 0xffffffffu);
    for (var i = 0u; i < LANE_VALUES; i++) {
        let at = min(first + i * WORKGROUP, arg_max.width - 1u);
        mine = better(mine, vec2(arg_max_key(values[row_at + at]), at));
    }
    let found = best_of_lanes(lane, mine);
    if lane == 0u {
        parts[group.y * ((arg_max.width + PART - 1u) / PART) + group.x] = found;
    }
}
