// The index of the largest value of each row, ties to the lowest index; NONE where a value is not a number, or none is
// above minus infinity. Grid: (rows).
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include lib/ordered_key.wgsl

const WORKGROUP: u32 = 256u;
const AT_ONCE: u32 = 8u;
const NONE: u32 = 0xffffffffu;
// Above the key of every number, so that what is not one cannot hide among them.
const NOT_A_NUMBER: u32 = 0xffffffffu;
const MINUS_INFINITY: u32 = 0x007fffffu;

struct ArgMax {
    width: u32,
    stride: u32,
}

@group(0) @binding(1) var<uniform> arg_max: ArgMax;
@group(0) @binding(2) var<storage, read> values: array<f32>;
@group(0) @binding(3) var<storage, read_write> winners: array<u32>;

var<workgroup> keys: array<u32, WORKGROUP>;
var<workgroup> places: array<u32, WORKGROUP>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = lane_of(local, WORKGROUP);
    var key = 0u;
    var place = arg_max.width;
    // Several at a time, so that a lane does not wait for each of its values.
    for (var first = lane; first < arg_max.width; first += WORKGROUP * AT_ONCE) {
        var found = array<u32, AT_ONCE>();
        for (var i = 0u; i < AT_ONCE; i++) {
            let at = min(first + i * WORKGROUP, arg_max.width - 1u);
            let found_key = ordered_key(values[group.x * arg_max.stride + at]);
            found[i] = select(found_key, NOT_A_NUMBER, found_key == 0u);
        }
        for (var i = 0u; i < AT_ONCE; i++) {
            let at = first + i * WORKGROUP;
            if at < arg_max.width && (place == arg_max.width || found[i] > key) {
                key = found[i];
                place = at;
            }
        }
    }
    keys[lane] = key;
    places[lane] = place;
    workgroupBarrier();
    for (var half = WORKGROUP / 2u; half > 0u; half = half / 2u) {
        if lane < half {
            let other = lane + half;
            if keys[other] > keys[lane] || (keys[other] == keys[lane] && places[other] < places[lane]) {
                keys[lane] = keys[other];
                places[lane] = places[other];
            }
        }
        workgroupBarrier();
    }
    if lane == 0u {
        let is_usable = keys[0] > MINUS_INFINITY && keys[0] != NOT_A_NUMBER;
        winners[group.x] = select(NONE, places[0], is_usable);
    }
}
