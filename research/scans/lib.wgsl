// What every scan shares. One index buffer holds a record of RECORD_VECS vec4 for each physical block and KV head; a
// block table leads to it, as in the product. A scan writes one score per sealed block and scoring head.
struct Scan {
    // Sealed blocks of each row.
    blocks: u32,
}

@group(0) @binding(0) var<uniform> scan: Scan;
// [row][block]: physical block
@group(0) @binding(1) var<storage, read> table: array<u32>;
// [row][scoring head][QUERY_VECS]
@group(0) @binding(2) var<storage, read> queries: array<vec4<u32>>;
// [row][scoring head]
@group(0) @binding(3) var<storage, read> query_scales: array<f32>;
// [physical block][KV head][RECORD_VECS]
@group(0) @binding(4) var<storage, read> index: array<vec4<u32>>;
// [row][scoring head][block]
@group(0) @binding(5) var<storage, read_write> scores: array<f32>;

// LANES lanes share a block, PLACES blocks are worked on at once, and each lane works on BLOCKS_A_LANE of them.
const PLACES: u32 = WORKGROUP / LANES;
const BLOCKS_A_WORKGROUP: u32 = PLACES * BLOCKS_A_LANE;

// A block beyond the last stands for the last: its loads are in bounds, and its score is not written.
fn record_of(row: u32, kv_head: u32, block: u32) -> u32 {
    let physical = table[row * scan.blocks + min(block, scan.blocks - 1u)];
    return (physical * KV_HEADS + kv_head) * RECORD_VECS;
}

fn halves_low(eight: vec4<u32>) -> vec4<f32> {
    return vec4(unpack2x16float(eight.x), unpack2x16float(eight.y));
}

fn halves_high(eight: vec4<u32>) -> vec4<f32> {
    return vec4(unpack2x16float(eight.z), unpack2x16float(eight.w));
}
