// Level 2 over the tokens of the chosen blocks; what is written is their position.
//!include lib/items_of_tokens.wgsl

// [row][KV head][H_BLOCKS_KEPT]: logical blocks, ascending
@group(0) @binding(5) var<storage, read> chosen_blocks: array<u32>;

fn item_output(row: u32, kv_head: u32, item: u32) -> u32 {
    let block = chosen_blocks[(row * KV_HEADS + kv_head) * step[H_BLOCKS_KEPT] + item / BLOCK];
    return block * BLOCK + item % BLOCK;
}

// The key that an item is ranked by, of the key of its score.
fn item_key(row: u32, kv_head: u32, item: u32, key: u32) -> u32 {
    return key;
}
