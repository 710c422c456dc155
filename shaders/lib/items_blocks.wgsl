// Level 1 over all blocks.
//!include lib/items_of_blocks.wgsl

// The key that an item is ranked by, of the key of its score.
fn item_key(row: u32, kv_head: u32, item: u32, key: u32) -> u32 {
    return key;
}
