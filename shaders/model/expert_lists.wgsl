// Which entries (a row's slots follow one another) use each expert, in ascending order: what a product of many tokens with
// that expert's matrix goes through. A lane lists a run of entries; where it begins to write follows from the counts of
// the lanes before it. Grid: (experts).
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include lib/expert_slots.wgsl

@group(0) @binding(1) var<storage, read> slots: array<vec2<u32>>;
// A count for each expert, then for each a list with room for every row.
@group(0) @binding(2) var<storage, read_write> lists: array<u32>;

const WORKGROUP: u32 = 64u;

var<workgroup> counts: array<u32, WORKGROUP>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = lane_of(local, WORKGROUP);
    let expert = group.x;
    let rows = step[H_ROWS];
    let entries = rows * SLOTS;
    let run = (entries + WORKGROUP - 1u) / WORKGROUP;
    let first = min(lane * run, entries);
    let end = min(first + run, entries);
    var count = 0u;
    for (var entry = first; entry < end; entry++) {
        count += select(0u, 1u, slots[entry].x == expert);
    }
    counts[lane] = count;
    workgroupBarrier();
    var before = 0u;
    for (var i = 0u; i < lane; i++) {
        before += counts[i];
    }
    var to = EXPERTS + expert * rows + before;
    for (var entry = first; entry < end; entry++) {
        if slots[entry].x == expert {
            lists[to] = entry;
            to += 1u;
        }
    }
    if lane == WORKGROUP - 1u {
        lists[expert] = before + count;
    }
}
