// Ranks that need nothing but what is loaded of each item.
//!include lib/terms_dropped.wgsl

alias RankTerms = u32;

fn keep_terms(lane: u32, row: u32, kv_head: u32, terms: RankTerms) {}
