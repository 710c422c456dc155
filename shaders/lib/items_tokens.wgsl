// Level 2's items: the tokens of the chosen blocks, chosen block by chosen block; what is written is their position.
// [row][KV head][H_BLOCKS_KEPT]: logical blocks, ascending
@group(0) @binding(5) var<storage, read> chosen_blocks: array<u32>;

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

fn item_output(row: u32, kv_head: u32, item: u32) -> u32 {
    let block = chosen_blocks[(row * KV_HEADS + kv_head) * step[H_BLOCKS_KEPT] + item / BLOCK];
    return block * BLOCK + item % BLOCK;
}

// The key that an item is ranked by, of the key of its score.
fn item_key(row: u32, kv_head: u32, item: u32, key: u32) -> u32 {
    return key;
}
