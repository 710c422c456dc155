// One segment of a layer's block bounds: the smallest key of each sealed block and its largest, dimension by dimension,
// f16 in pairs. Physical block, KV head, low or high: a row of HEAD_DIM values, ROW_VECS vec4.
const LOW: u32 = 0u;
const HIGH: u32 = 1u;

fn bounds_row(slot: u32, kv_head: u32, which: u32) -> u32 {
    return ((slot * KV_HEADS + kv_head) * 2u + which) * ROW_VECS;
}
