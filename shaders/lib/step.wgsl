// What one step works on, written by the host once a step (src/attention/plan.rs keeps the same layout).
//
// header   H_* words, then tables at the offsets that the header names
// row      sequence slot, position, offset of its block table, token id
// span     sequence slot, first row, rows, position of the first row: one per sequence in the step
// tile     first row, rows: at most TILE_ROWS consecutive rows of one span
// closing  sequence slot, physical block, where its keys and values are: blocks whose index is built in this step
// angles   cos and sin of each rotary pair, per row
// tables   physical block of each logical block, per span; H_WINDOW words on, the slot of each in the window of the hot
//          cache, where there is one
@group(0) @binding(0) var<storage, read> step: array<u32>;

const H_ROWS: u32 = 0u;
const H_SPLIT_TILES: u32 = 1u;
const H_SPLITS: u32 = 2u;
const H_BLOCKS_KEPT: u32 = 3u;
const H_TOKENS_KEPT: u32 = 4u;
const H_SINK_BLOCKS: u32 = 5u;
const H_RECENT_BLOCKS: u32 = 6u;
const H_ROWS_AT: u32 = 7u;
const H_SPANS_AT: u32 = 8u;
const H_TILES_AT: u32 = 9u;
const H_CLOSING_AT: u32 = 10u;
const H_ANGLES_AT: u32 = 11u;
const H_OUTPUTS_AT: u32 = 12u;
const H_WINDOW: u32 = 13u;
const H_EPOCH: u32 = 14u;

fn row_word(row: u32, word: u32) -> u32 {
    return step[step[H_ROWS_AT] + row * 4u + word];
}

fn row_sequence(row: u32) -> u32 {
    return row_word(row, 0u);
}

fn row_position(row: u32) -> u32 {
    return row_word(row, 1u);
}

fn row_token(row: u32) -> u32 {
    return row_word(row, 3u);
}

// The physical block that holds logical block `block` of this row's sequence.
fn row_block(row: u32, block: u32) -> u32 {
    return step[row_word(row, 2u) + block];
}
