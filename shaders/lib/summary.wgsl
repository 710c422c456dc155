// One segment of a layer's block summaries: physical block, KV head, row of the summary: HEAD_DIM values, f16 in pairs,
// ROW_VECS vec4.
fn summary_row(slot: u32, kv_head: u32, row: u32) -> u32 {
    return ((slot * KV_HEADS + kv_head) * SUMMARY_ROWS + row) * ROW_VECS;
}
