// The words of one step, written by the host once a step (src/contract/step.rs has the words of each part).
//
// header   H_* words, then tables at the offsets that the header names
// row      R_* words: sequence slot, position, offset of its block table, token id, blocks that level 1 keeps: first the rows
//          that select, from H_FIRST_DENSE those that decode densely, then those of prompts
// span     S_* words: sequence slot, first row, rows, position of the first row: one per sequence in the step
// tile     T_* words: first row, rows: at most TILE_ROWS consecutive rows of one span; those of prompts come first
// sealing  C_* words: sequence slot, physical block, where its keys and values are: blocks whose index is built in this step
// angles   cos and sin of each rotary pair, per row
// tables   physical block of each logical block, per span; H_WINDOW words on, the slot of each in the window of the hot
//          cache, where there is one
@group(0) @binding(0) var<storage, read> step: array<u32>;

//!words StepHeader H
//!words StepRow R
//!words StepSpan S
//!words StepTile T
//!words StepSealing C

fn row_word(row: u32, word: u32) -> u32 {
    return step[step[H_ROWS_AT] + row * R_WORDS + word];
}

fn row_sequence(row: u32) -> u32 {
    return row_word(row, R_SEQUENCE);
}

fn row_position(row: u32) -> u32 {
    return row_word(row, R_POSITION);
}

fn row_token(row: u32) -> u32 {
    return row_word(row, R_TOKEN);
}

// The physical block that holds logical block `block` of this row's sequence.
fn row_block(row: u32, block: u32) -> u32 {
    return step[row_word(row, R_TABLE) + block];
}
