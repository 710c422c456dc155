// Ranks that need nothing but what is loaded of each item.
//!include lib/terms_dropped.wgsl

alias RankTerms = u32;

fn sum_exponentials(lane: u32, row: u32, kv_head: u32, items: u32) {}

fn rank_terms(lane: u32, row: u32, kv_head: u32, items: u32) -> RankTerms {
    return 0u;
}

fn keep_terms(lane: u32, row: u32, kv_head: u32, terms: RankTerms) {}
