// Where keys and values of a row's block are: in the window, which all heads share, or in a slot of the KV head's own, or
// nowhere on the GPU.
//!include lib/hot_slots.wgsl

@group(0) @binding(8) var<storage, read> hot_slots: array<u32>;

fn kv_place(row: u32, kv_head: u32, block: u32) -> u32 {
    let in_window = step[row_word(row, 2u) + step[H_WINDOW] + block];
    if in_window != NO_SLOT {
        return in_window;
    }
    return hot_slots[slot_at(kv_head, row_block(row, block))];
}
