// Adds biases and norms (where a model does) and rotates the queries and keys of each row in place (arXiv 2104.09864) and appends keys and
// values to the cache. The angles come from the host in f64: a shader's own cos and sin lose accuracy at large arguments.
// One dispatch a segment that rows append to; a row belongs to the segment of its open block. A lane has one pair, and
// asks for all that it reads before it waits for any of it. Grid: (q and kv heads, rows).
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include <kv>
//!include <reduce>
//!include <head_bias>
//!include <head_norm>

@group(0) @binding(1) var<uniform> segment: Segment;
@group(0) @binding(2) var<storage, read_write> qkv: array<f32>;
@group(0) @binding(3) var<storage, read_write> kv: array<vec4<u32>>;

const PAIRS: u32 = HEAD_DIM / 2u;
// A lane for each pair.
const WORKGROUP: u32 = select(64u, 128u, PAIRS > 64u);
const Q_HEADS: u32 = KV_HEADS * GROUP;

var<workgroup> rotated: array<f32, HEAD_DIM>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = lane_of(local, WORKGROUP);
    let head = group.x;
    let row = group.y;
    let has_pair = lane < PAIRS;
    let pair = min(lane, PAIRS - 1u);
    var first = pair;
    var second = pair + PAIRS;
    if ROPE_INTERLEAVED {
        first = 2u * pair;
        second = first + 1u;
    }
    let at = row * ROW_WIDTH + head * HEAD_DIM;
    var values = with_bias(vec2(qkv[at + first], qkv[at + second]), head, first, second);
    let weights = head_weights(head, first, second);
    let angle = step[H_ANGLES_AT] + (row * PAIRS + pair) * 2u;
    let cosine = bitcast<f32>(step[angle]);
    let sine = bitcast<f32>(step[angle + 1u]);
    let position = row_position(row);
    let block = row_block(row, position / BLOCK);
    if block < segment.first || block - segment.first >= segment.blocks {
        return;
    }
    if head < Q_HEADS + KV_HEADS {
        values *= head_factor(lane, select(0.0, dot(values, values), has_pair)) * weights;
        values = vec2(values.x * cosine - values.y * sine, values.x * sine + values.y * cosine);
    }
    if has_pair {
        rotated[first] = values.x;
        rotated[second] = values.y;
        if HAS_BIAS || head < Q_HEADS + KV_HEADS {
            qkv[at + first] = values.x;
            qkv[at + second] = values.y;
        }
    }
    workgroupBarrier();
    if head >= Q_HEADS && lane < ROW_VECS {
        let which = (head - Q_HEADS) / KV_HEADS;
        let to = kv_row(block - segment.first, (head - Q_HEADS) % KV_HEADS, which, position % BLOCK) + lane;
        let i = lane * 8u;
        kv[to] = vec4(
            //!repeat 4 k
            kv_pack(rotated[i{+2*k}], rotated[i{+2*k+1}]),
            //!end
        );
    }
}
