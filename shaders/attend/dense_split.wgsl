// Dense decode attention: every token up to the row's own, in splits. Merged by attend/merge.
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include <kv>
//!include <place>
//!include <split>

fn row_of(i: u32) -> u32 {
    return step[H_FIRST_DENSE] + i;
}

fn token_count(row: u32, kv_head: u32) -> u32 {
    return row_position(row) + 1u;
}

fn token_at(row: u32, kv_head: u32, i: u32) -> u32 {
    return i;
}

fn split_tiles(tiles: u32) -> u32 {
    return step[H_SPLIT_TILES];
}
