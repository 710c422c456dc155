// Decode attention of layers with a sliding window, whose rows select nothing: the tokens of the window, in splits. Merged by
// attend/merge.
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include lib/causal_window.wgsl
//!include <kv>
//!include <place>
//!include <split>

fn row_of(i: u32) -> u32 {
    return i;
}

fn token_count(row: u32, kv_head: u32) -> u32 {
    let position = row_position(row);
    return position + 1u - first_attended(position);
}

fn token_at(row: u32, kv_head: u32, i: u32) -> u32 {
    return first_attended(row_position(row)) + i;
}

// As many tiles as it takes: the step's splits are sized for layers that have no window.
fn split_tiles(tiles: u32) -> u32 {
    return (tiles + step[H_SPLITS] - 1u) / step[H_SPLITS];
}
