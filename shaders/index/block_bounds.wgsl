// The smallest and largest cached key of each sealed block, dimension by dimension, for the minmax scorer. Cached keys
// are f16, so the bounds are exact. Lane = a pair of dimensions. Grid: (KV heads, blocks to seal).
//!include lib/step.wgsl
//!include <kv>
//!include lib/bounds.wgsl

@group(0) @binding(1) var<uniform> segment: Segment;
@group(0) @binding(2) var<storage, read> kv: array<u32>;
@group(0) @binding(3) var<storage, read_write> bounds: array<u32>;
// The segment of the index, which is divided otherwise than keys and values.
@group(0) @binding(4) var<uniform> index_segment: Segment;

const WORKGROUP: u32 = 64u;
const ROW_WORDS: u32 = HEAD_DIM / 2u;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let kv_head = group.x;
    let sealing = step[H_SEALING_AT] + group.y * C_WORDS;
    let index_slot = step[sealing + C_BLOCK] - index_segment.first;
    let slot = step[sealing + C_PLACE] - segment.first;
    if slot >= segment.blocks || index_slot >= index_segment.blocks {
        return;
    }
    let first = kv_row(slot, kv_head, KEYS, 0u) * 4u;
    for (var word = lane; word < ROW_WORDS; word += WORKGROUP) {
        var low = vec2(F16_MAX);
        var high = vec2(-F16_MAX);
        for (var token = 0u; token < BLOCK; token++) {
            let pair = unpack2x16float(kv[first + token * ROW_WORDS + word]);
            low = min(low, pair);
            high = max(high, pair);
        }
        bounds[bounds_row(index_slot, kv_head, LOW) * 4u + word] = pack2x16float(low);
        bounds[bounds_row(index_slot, kv_head, HIGH) * 4u + word] = pack2x16float(high);
    }
}
