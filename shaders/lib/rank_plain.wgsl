// The score of the group's first query head is s_i: for scorers that sum over the group themselves.
//!include lib/rank_terms_none.wgsl

fn rank_items(terms: RankTerms, lane: u32, row: u32, kv_head: u32, items: u32, range: vec2<u32>) {
    let scores_at = (row * KV_HEADS + kv_head) * GROUP * score_rows.stride;
    let keys_at = (row * KV_HEADS + kv_head) * score_rows.stride;
    for (var i = range.x + lane; i < range.y; i += LANES) {
        keys[keys_at + i] = item_key(row, kv_head, i, ordered_key(scores[scores_at + i]));
    }
}
