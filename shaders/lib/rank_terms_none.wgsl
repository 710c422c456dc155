// Ranks (top_k_shuffled) that need nothing but what is loaded of each item.
fn sum_exponentials(lane: u32, row: u32, kv_head: u32, items: u32) {}

alias RankTerms = u32;

fn rank_terms(member: u32) -> RankTerms {
    return 0u;
}
