// Where prefill finds a tile of tokens in the cache.
const TILE_TOKENS: u32 = 32u;

@group(0) @binding(1) var<uniform> segment: Segment;

// Where the first tile begins that may have tokens in this segment, and where they end, for rows from one position to another.
fn tiles_begin(first_position: u32) -> u32 {
    return max(segment.first_logical * BLOCK, first_attended(first_position)) / TILE_TOKENS * TILE_TOKENS;
}

fn tiles_end(last_position: u32) -> u32 {
    return min(last_position + 1u, segment.end_logical * BLOCK);
}

// Where the keys of a tile lie: in one block, or half in each of two where a block has fewer tokens than a tile. Either
// half may be in another segment; its rows are then the other half's, which can be read and are masked.
struct Place {
    // Where the tile's first token would begin if all tokens lay where the near (the far) half's do; wraps.
    near: u32,
    far: u32,
    near_here: bool,
    far_here: bool,
}

const HALVES: bool = BLOCK < TILE_TOKENS;

fn place_of(row: u32, kv_head: u32, tile: u32, last_position: u32) -> Place {
    return place_in(blocks_of(row, tile, last_position), kv_head, tile);
}

// The blocks that a tile's halves lie in, counted from the segment's first.
fn blocks_of(row: u32, tile: u32, last_position: u32) -> vec2<u32> {
    let near = row_block(row, tile / BLOCK) - segment.first;
    if !HALVES {
        return vec2(near);
    }
    return vec2(near, row_block(row, min(tile + BLOCK, last_position) / BLOCK) - segment.first);
}

fn place_in(blocks: vec2<u32>, kv_head: u32, tile: u32) -> Place {
    let near_here = blocks.x < segment.blocks;
    let far_here = blocks.y < segment.blocks;
    let near_rows = kv_row(select(blocks.y, blocks.x, near_here), kv_head, KEYS, tile % BLOCK);
    let far_rows = kv_row(select(blocks.x, blocks.y, far_here), kv_head, KEYS, 0u) - BLOCK * ROW_VECS;
    return Place(near_rows, far_rows, near_here, far_here);
}

// Where the keys begin, counted from the tile's first token, of the half that its i-th token is in.
fn place_rows(place: Place, i: u32) -> u32 {
    return select(place.near, place.far, HALVES && i >= BLOCK);
}

// Whether the tile's i-th token is in this segment.
fn place_here(place: Place, i: u32) -> bool {
    return !HALVES || select(place.near_here, place.far_here, i >= BLOCK);
}
