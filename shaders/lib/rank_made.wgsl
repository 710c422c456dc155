// s_i is where its key will be: head_ranks or token_score made it.
//!include lib/rank_terms_none.wgsl

fn rank_items(terms: RankTerms, lane: u32, row: u32, kv_head: u32, items: u32, range: vec2<u32>) {
    let keys_at = (row * KV_HEADS + kv_head) * score_rows.stride;
    for (var i = range.x + lane; i < range.y; i += LANES) {
        keys[keys_at + i] = item_key(row, kv_head, i, ordered_key(bitcast<f32>(keys[keys_at + i])));
    }
}
