// One segment of a layer's keys, whose values lie alike in a buffer of their own: f16 in pairs. The rows of a block's tokens follow one
// another; blocks and KV heads begin every BLOCK_STRIDE and HEAD_STRIDE vec4. A row of HEAD_DIM values is ROW_VECS vec4, eight
// values each.
const ROW_VECS: u32 = HEAD_DIM / 8u;
const KEYS: u32 = 0u;
const VALUES: u32 = 1u;
// From a token's key to its value: there in the other buffer.
const KEY_TO_VALUE: u32 = 0u;

//!include lib/segment.wgsl

fn kv_row(slot: u32, head: u32, which: u32, token: u32) -> u32 {
    return slot * BLOCK_STRIDE + head * HEAD_STRIDE + token * ROW_VECS;
}

//!include lib/f16_pairs.wgsl
