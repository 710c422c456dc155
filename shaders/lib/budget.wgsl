// How many blocks and tokens a row attends, from its position and its budget alone. The open block is the one that holds the row's
// own token; sealed blocks lie before it. Sink and recent blocks are always attended and never candidates.

fn sealed_blocks(row: u32) -> u32 {
    return row_position(row) / BLOCK;
}

// The first block of the recent window.
fn recent_first(row: u32) -> u32 {
    let sealed = sealed_blocks(row);
    return sealed - min(sealed, step[H_RECENT_BLOCKS]);
}

// Blocks of the sink: none of them lies in the recent window too.
fn sink_blocks(row: u32) -> u32 {
    return min(step[H_SINK_BLOCKS], recent_first(row));
}

// Level 1 chooses among blocks sink_blocks .. recent_first.
fn blocks_chosen(row: u32) -> u32 {
    return min(row_word(row, R_BLOCKS_KEPT), recent_first(row) - sink_blocks(row));
}

fn tokens_chosen(row: u32) -> u32 {
    return min(step[H_TOKENS_KEPT], blocks_chosen(row) * BLOCK);
}
