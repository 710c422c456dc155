// Reads a slab of the cached latents of the step's first sequence as floats: latents of tokens, from which prefill's keys
// and values are made, and their shared rotated keys. Tokens past the last row's are zero. One dispatch a segment of the
// cache, of which each writes what it holds. Grid: (tokens of the slab).
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include <kv>

struct Slab {
    // Logical blocks first .. first + blocks.
    first: u32,
    blocks: u32,
    index: u32,
    count: u32,
}

@group(0) @binding(1) var<uniform> segment: Segment;
@group(0) @binding(2) var<uniform> slab: Slab;
@group(0) @binding(3) var<storage, read> kv: array<vec4<u32>>;
// [token of the slab]: VALUE_DIM
@group(0) @binding(4) var<storage, read_write> latents: array<vec4<f32>>;
// [token of the slab]: ROPE
@group(0) @binding(5) var<storage, read_write> shared_keys: array<vec4<f32>>;

const WORKGROUP: u32 = 64u;
const LATENT_VECS: u32 = VALUE_DIM / 8u;
const SHARED_VECS: u32 = ROW_VECS - LATENT_VECS;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let token = group.x;
    let position = slab.first * BLOCK + token;
    // Rows of a step's first sequence follow one another.
    let last_row = step[step[H_SPANS_AT] + S_ROWS] - 1u;
    let exists = position <= row_position(last_row);
    var row_at = 0u;
    if exists {
        let slot = row_block(0u, position / BLOCK) - segment.first;
        if slot >= segment.blocks {
            return;
        }
        row_at = kv_row(slot, 0u, KEYS, position % BLOCK);
    }
    for (var vec = local; vec < ROW_VECS; vec += WORKGROUP) {
        var eight = vec4(0u);
        if exists {
            eight = kv[row_at + vec];
        }
        if vec < LATENT_VECS {
            let to = (token * LATENT_VECS + vec) * 2u;
            latents[to] = kv_low(eight);
            latents[to + 1u] = kv_high(eight);
        } else {
            let to = (token * SHARED_VECS + vec - LATENT_VECS) * 2u;
            shared_keys[to] = kv_low(eight);
            shared_keys[to + 1u] = kv_high(eight);
        }
    }
}
