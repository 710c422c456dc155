// Level 1 over the blocks that have a slot in the hot cache: the others rank below all of them.
//!include lib/items_of_blocks.wgsl
//!include lib/hot_slots.wgsl

@group(0) @binding(8) var<storage, read> hot_slots: array<u32>;

// The key that an item is ranked by, of the key of its score.
fn item_key(row: u32, kv_head: u32, item: u32, key: u32) -> u32 {
    return select(key, 0u, hot_slots[slot_at(kv_head, row_block(row, item))] == NO_SLOT);
}
