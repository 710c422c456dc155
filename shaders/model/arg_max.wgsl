// The index of the largest value of each row, of what arg_max_part found: ties to the lowest index; NONE where a value is not a
// number, or none is above minus infinity.
// Grid: (rows).
//!include lib/lane.wgsl
//!include lib/ordered_key.wgsl
//!include lib/arg_max.wgsl

const NONE: u32 = 0xffffffffu;
const MINUS_INFINITY: u32 = 0x007fffffu;

struct ArgMax {
    width: u32,
    stride: u32,
}

@group(0) @binding(0) var<uniform> arg_max: ArgMax;
// [row][part]
@group(0) @binding(1) var<storage, read> parts: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read_write> winners: array<u32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = lane_of(local, WORKGROUP);
    let count = (arg_max.width + PART - 1u) / PART;
    var mine = vec2(0u, 0xffffffffu);
    for (var i = lane; i < count; i += WORKGROUP) {
        mine = better(mine, parts[group.x * count + i]);
    }
    let found = best_of_lanes(lane, mine);
    if lane == 0u {
        let is_usable = found.x > MINUS_INFINITY && found.x != NOT_A_NUMBER;
        winners[group.x] = select(NONE, found.y, is_usable);
    }
}
