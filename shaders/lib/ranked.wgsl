// What makes ranks before top_k; <items> says what they are of.
//!include lib/scores.wgsl

// Where everything is kept, or nothing, nothing is ranked.
fn is_ranked(row: u32) -> bool {
    let range = eligible_items(row);
    let k = items_chosen(row);
    return k > 0u && k < range.y - range.x;
}
