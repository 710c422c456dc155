// Decode attention of one row over one split of its tokens (flash-decoding, arXiv 2311.01282), for the kernels that include
// it: a partial state (m, l, o) per query head, merged later. The including kernel provides its rows, and for a row and KV head
// the tokens:
//   fn row_of(i: u32) -> u32                               the i-th row that is attended so
//   fn token_count(row: u32, kv_head: u32) -> u32
//   fn token_at(row: u32, kv_head: u32, i: u32) -> u32     position of the i-th attended token
//   fn split_tiles(tiles: u32) -> u32                      tiles of a split, of so many in all
const Q_HEADS: u32 = KV_HEADS * GROUP;
const VALUE_VECS: u32 = VALUE_DIM / 8u;
// Below every logit of finite keys, and finite: exp(NOTHING - NOTHING) must not be NaN.
const NOTHING: f32 = -1.0e30;
const NOWHERE: u32 = 0xffffffffu;

@group(0) @binding(1) var<uniform> segment: Segment;
// [row][query head][segment][split]: o as VALUE_DIM floats, and (m, l)
@group(0) @binding(4) var<storage, read_write> partial_o: array<f32>;
@group(0) @binding(5) var<storage, read_write> partial_ml: array<vec2<f32>>;

// Where the keys of the i-th attended token begin.
fn key_row(row: u32, kv_head: u32, i: u32, end: u32) -> u32 {
    if i >= end {
        return NOWHERE;
    }
    let token = token_at(row, kv_head, i);
    let slot = kv_place(row, kv_head, token / BLOCK) - segment.first;
    if slot >= segment.blocks {
        return NOWHERE;
    }
    return kv_row(slot, kv_head, KEYS, token % BLOCK);
}
