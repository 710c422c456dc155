// Where keys and values of a row's block are: every block has a place of its own, for all heads.
fn kv_place(row: u32, kv_head: u32, block: u32) -> u32 {
    return row_block(row, block);
}
