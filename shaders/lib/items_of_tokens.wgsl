// Level 2's items: the tokens of the chosen blocks, chosen block by chosen block.
fn item_count(row: u32) -> u32 {
    return blocks_chosen(row) * BLOCK;
}

fn eligible_items(row: u32) -> vec2<u32> {
    return vec2(0u, item_count(row));
}

fn items_chosen(row: u32) -> u32 {
    return tokens_chosen(row);
}

fn items_kept() -> u32 {
    return step[H_TOKENS_KEPT];
}
