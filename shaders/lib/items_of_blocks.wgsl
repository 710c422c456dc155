// Level 1's items: the row's sealed blocks, by logical number. All of them share the softmax; sink and recent blocks are
// not eligible.
fn item_count(row: u32) -> u32 {
    return sealed_blocks(row);
}

fn eligible_items(row: u32) -> vec2<u32> {
    return vec2(sink_blocks(row), recent_first(row));
}

fn items_chosen(row: u32) -> u32 {
    return blocks_chosen(row);
}

fn items_kept() -> u32 {
    return step[H_BLOCKS_KEPT];
}

fn item_output(row: u32, kv_head: u32, item: u32) -> u32 {
    return item;
}
