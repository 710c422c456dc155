// Where keys and values of a row's block are, if they arrived in this epoch: what was there before has been attended.
//!include lib/hot_slots.wgsl

@group(0) @binding(8) var<storage, read> hot_slots: array<u32>;

fn kv_place(row: u32, kv_head: u32, block: u32) -> u32 {
    let in_window = step[row_word(row, 2u) + step[H_WINDOW] + block];
    let slot = hot_slots[slot_at(kv_head, row_block(row, block))];
    if in_window != NO_SLOT || slot == NO_SLOT {
        return NO_SLOT;
    }
    return select(NO_SLOT, slot, hot_slots[epoch_at(kv_head, slot)] == step[H_EPOCH]);
}
