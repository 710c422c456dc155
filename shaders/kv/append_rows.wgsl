// Appends keys and values that lie in rows of their own, floats or f16, to the cache, and turns keys on the way where they are
// not turned yet (arXiv 2104.09864): all of a key's dimensions, or those behind the values where these are a part of the
// keys. One dispatch a segment that rows append to. A lane makes eight of a row's numbers. Grid: (KV heads, cached rows, rows).
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include <kv>
//!include <numbers>
//!include <values>

@group(0) @binding(1) var<uniform> segment: Segment;
// [row]: KEY_STRIDE numbers, of which [KV head][dimension] are the keys
@group(0) @binding(2) var<storage, read> keys: array<u32>;
@group(0) @binding(3) var<storage, read_write> kv: array<vec4<u32>>;

const WORKGROUP: u32 = 64u;
const TURNED_FROM: u32 = select(0u, VALUE_DIM, SHARED_VALUES);
const PAIRS: u32 = (HEAD_DIM - TURNED_FROM) / 2u;

fn key_number(i: u32) -> f32 {
    return number(keys[word_of(i)], i);
}

// The number i of the key that begins at `at`.
fn key(row: u32, at: u32, i: u32) -> f32 {
    let own = key_number(at + i);
    if !TURNS || i < TURNED_FROM {
        return own;
    }
    let turned = i - TURNED_FROM;
    var pair = turned % PAIRS;
    var is_second = turned >= PAIRS;
    var other = (turned + PAIRS) % (2u * PAIRS);
    if ROPE_INTERLEAVED {
        pair = turned / 2u;
        is_second = turned % 2u == 1u;
        other = turned ^ 1u;
    }
    let angle = step[H_ANGLES_AT] + (row * PAIRS + pair) * 2u;
    let cosine = bitcast<f32>(step[angle]);
    let sine = bitcast<f32>(step[angle + 1u]);
    let partner = key_number(at + TURNED_FROM + other);
    return own * cosine + select(-partner, partner, is_second) * sine;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = lane_of(local, WORKGROUP);
    let head = group.x;
    let which = group.y;
    let row = group.z;
    let position = row_position(row);
    let block = row_block(row, position / BLOCK);
    if block < segment.first || block - segment.first >= segment.blocks {
        return;
    }
    let to = kv_row(block - segment.first, head, which, position % BLOCK);
    let key_at = row * KEY_STRIDE + head * HEAD_DIM;
    let value_at = row * VALUE_STRIDE + head * HEAD_DIM;
    for (var vec = lane; vec < ROW_VECS; vec += WORKGROUP) {
        var numbers = array<f32, 8>();
        for (var j = 0u; j < 8u; j++) {
            if which == KEYS {
                numbers[j] = key(row, key_at, vec * 8u + j);
            } else {
                numbers[j] = value_number(value_at + vec * 8u + j);
            }
        }
        kv[to + vec] = vec4(
            //!repeat 4 k
            kv_pack(numbers[{2*k}], numbers[{2*k+1}]),
            //!end
        );
    }
}
