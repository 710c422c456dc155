// One segment of a layer's key and value cache: f16 in pairs. Physical block, KV head, keys or values, token, dimension:
// a head-block's keys and values are contiguous. A row of HEAD_DIM values is ROW_VECS vec4, eight values each. With
// SHARED_VALUES there are keys alone, and values are the first VALUE_DIM dimensions of them (latent attention).
const ROW_VECS: u32 = HEAD_DIM / 8u;
const KEYS: u32 = 0u;
const VALUES: u32 = 1u;
const CACHED_ROWS: u32 = select(2u, 1u, SHARED_VALUES);
// From a token's key to its value, in vec4.
const KEY_TO_VALUE: u32 = select(BLOCK * ROW_VECS, 0u, SHARED_VALUES);

//!include lib/segment.wgsl

fn kv_row(slot: u32, head: u32, which: u32, token: u32) -> u32 {
    return (((slot * KV_HEADS + head) * CACHED_ROWS + which) * BLOCK + token) * ROW_VECS;
}

//!include lib/f16_pairs.wgsl
