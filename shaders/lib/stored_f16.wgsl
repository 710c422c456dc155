// Head-blocks that come from CPU memory as the cache has them.
@group(0) @binding(0) var<storage, read> stored: array<vec4<u32>>;

// Of one head-block.
const HEAD_VECS: u32 = CACHED_ROWS * BLOCK * ROW_VECS;
const STORED_VECS: u32 = HEAD_VECS;

// Values 8 * i .. 8 * i + 7, as the cache has them, of the head-block that begins at `first`.
fn stored_eight(first: u32, i: u32) -> vec4<u32> {
    return stored[first + i];
}
