// As rank_plain.wgsl: a score is its item's rank.
//!include lib/rank_terms_none.wgsl

// The ranks of AT_ONCE items, LANES apart from this one on.
fn rank_items(terms: RankTerms, row: u32, kv_head: u32, item: u32, items: u32) -> array<f32, AT_ONCE> {
    let first_score = (row * KV_HEADS + kv_head) * GROUP * score_rows.stride;
    return array<f32, AT_ONCE>(
        //!repeat AT_ONCE j
        scores[first_score + min(item{+j*LANES}, items - 1u)],
        //!end
    );
}
