// The hot cache of one layer: POOL_BLOCKS words of each KV head, the slot of a physical block or NO_SLOT; then HOT_SLOTS
// words of each KV head, the epoch in which a slot got what it holds.
const NO_SLOT: u32 = 0xffffffffu;

fn slot_at(kv_head: u32, block: u32) -> u32 {
    return kv_head * POOL_BLOCKS + block;
}

fn epoch_at(kv_head: u32, slot: u32) -> u32 {
    return KV_HEADS * POOL_BLOCKS + kv_head * HOT_SLOTS + slot;
}
