// Places head-blocks that arrived in the hot cache, and notes where they are. What arrived begins with a row of PARTS
// vec4, one a layer: where its part begins, how many head-blocks it has, and the epoch. A part is a vec4 a head-block (KV
// head, slot, physical block, the block that leaves the slot or NO_SLOT) and then their keys and values, as they are stored.
// Grid: (head-blocks of the part).
//!include <kv>
//!include <stored>
//!include lib/hot_slots.wgsl

struct Part {
    layer: u32,
}

@group(0) @binding(1) var<uniform> part: Part;
@group(0) @binding(2) var<uniform> segment: Segment;
@group(0) @binding(3) var<storage, read_write> kv: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> hot_slots: array<u32>;

const WORKGROUP: u32 = 64u;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let head = stored[part.layer];
    let item = stored[head.x + group.x];
    if segment.index == 0u && lane == 0u {
        if item.w != NO_SLOT {
            hot_slots[slot_at(item.x, item.w)] = NO_SLOT;
        }
        hot_slots[slot_at(item.x, item.z)] = item.y;
        hot_slots[epoch_at(item.x, item.y)] = head.z;
    }
    let slot = item.y - segment.first;
    if slot >= segment.blocks {
        return;
    }
    let source = head.x + head.y + group.x * STORED_VECS;
    let to = kv_row(slot, item.x, KEYS, 0u);
    for (var i = lane; i < HEAD_VECS; i += WORKGROUP) {
        kv[to + i] = stored_eight(source, i);
    }
}
