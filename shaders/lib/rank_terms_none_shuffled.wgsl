// As rank_terms_none.wgsl, for top_k_shuffled.
//!include lib/rank_terms_none.wgsl

fn sum_exponentials(lane: u32, row: u32, kv_head: u32, items: u32) {}

fn rank_terms(member: u32) -> RankTerms {
    return 0u;
}
