// Level 3: exact decode attention over the sink, the recent window and the tokens that level 2 chose. Merged by
// attend/merge.
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include lib/budget.wgsl
//!include <kv>
//!include <place>
//!include <split>

// [row][KV head][H_TOKENS_KEPT]: positions, ascending
@group(0) @binding(6) var<storage, read> chosen_tokens: array<u32>;

fn row_of(i: u32) -> u32 {
    return i;
}

fn sink_tokens(row: u32) -> u32 {
    return sink_blocks(row) * BLOCK;
}

fn recent_tokens(row: u32) -> u32 {
    return row_position(row) + 1u - recent_first(row) * BLOCK;
}

fn token_count(row: u32, kv_head: u32) -> u32 {
    return sink_tokens(row) + recent_tokens(row) + tokens_chosen(row);
}

fn token_at(row: u32, kv_head: u32, i: u32) -> u32 {
    let sink = sink_tokens(row);
    let recent = recent_tokens(row);
    if i < sink {
        return i;
    }
    if i < sink + recent {
        return recent_first(row) * BLOCK + i - sink;
    }
    return chosen_tokens[(row * KV_HEADS + kv_head) * step[H_TOKENS_KEPT] + i - sink - recent];
}

fn split_tiles(tiles: u32) -> u32 {
    return step[H_SPLIT_TILES];
}
