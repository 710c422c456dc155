// Packs keys and values made from a slab of latents as prefill reads them: for each head its own NOPE dimensions of the key
// and the shared ones, and its value. Grid: (heads, tokens of the slab).
//!include <kv>

// [token]: NOPE of each head's key, then each head's value
@group(0) @binding(0) var<storage, read> made: array<f32>;
@group(0) @binding(1) var<storage, read> shared_keys: array<f32>;
@group(0) @binding(2) var<storage, read_write> kv: array<vec4<u32>>;

const WORKGROUP: u32 = 64u;
const ROPE: u32 = HEAD_DIM - NOPE;
const MADE: u32 = KV_HEADS * (NOPE + HEAD_DIM);

fn key_value(token: u32, head: u32, i: u32) -> f32 {
    if i < NOPE {
        return made[token * MADE + head * NOPE + i];
    }
    return shared_keys[token * ROPE + i - NOPE];
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let head = group.x;
    let token = group.y;
    for (var vec = local; vec < 2u * ROW_VECS; vec += WORKGROUP) {
        let i = vec % ROW_VECS * 8u;
        var values = array<f32, 8>();
        for (var j = 0u; j < 8u; j++) {
            if vec < ROW_VECS {
                values[j] = key_value(token, head, i + j);
            } else {
                values[j] = made[token * MADE + KV_HEADS * NOPE + head * HEAD_DIM + i + j];
            }
        }
        kv[kv_row(token / BLOCK, head, vec / ROW_VECS, token % BLOCK) + vec % ROW_VECS] = vec4(
            //!repeat 4 k
            kv_pack(values[{2*k}], values[{2*k+1}]),
            //!end
        );
    }
}
