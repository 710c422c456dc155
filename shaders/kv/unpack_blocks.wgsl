// Makes whole blocks, which follow one another as they are stored in CPU memory, what the cache has: for prompts that attend
// them as they stream by, and for the window. Grid: (KV heads, blocks).
//!include <kv>
//!include <stored>

@group(0) @binding(1) var<storage, read_write> kv: array<vec4<u32>>;

const WORKGROUP: u32 = 64u;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let source = (group.y * KV_HEADS + group.x) * STORED_VECS;
    let to = kv_row(group.y, group.x, KEYS, 0u);
    for (var i = lane; i < HEAD_VECS; i += WORKGROUP) {
        kv[to + i] = stored_eight(source, i);
    }
}
