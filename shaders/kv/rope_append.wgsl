// Norms (where a model does) and rotates the queries and keys of each row in place (arXiv 2104.09864) and appends keys and
// values to the cache. The angles come from the host in f64: a shader's own cos and sin lose accuracy at large arguments.
// One dispatch a segment that rows append to; a row belongs to the segment of its open block. Grid: (q and kv heads, rows).
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include <kv>
//!include <reduce>
//!include <head_norm>

@group(0) @binding(1) var<uniform> segment: Segment;
@group(0) @binding(2) var<storage, read_write> qkv: array<f32>;
@group(0) @binding(3) var<storage, read_write> kv: array<vec4<u32>>;

const WORKGROUP: u32 = 64u;
const Q_HEADS: u32 = KV_HEADS * GROUP;
const PAIRS: u32 = HEAD_DIM / 2u;

var<workgroup> rotated: array<f32, HEAD_DIM>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = lane_of(local, WORKGROUP);
    let head = group.x;
    let row = group.y;
    let position = row_position(row);
    let block = row_block(row, position / BLOCK);
    if block < segment.first || block - segment.first >= segment.blocks {
        return;
    }
    let at = row * ROW_WIDTH + head * HEAD_DIM;
    let factor = head_factor(lane, at);
    for (var pair = lane; pair < PAIRS; pair += WORKGROUP) {
        let angle = step[H_ANGLES_AT] + (row * PAIRS + pair) * 2u;
        let cosine = bitcast<f32>(step[angle]);
        let sine = bitcast<f32>(step[angle + 1u]);
        var first = pair;
        var second = pair + PAIRS;
        if ROPE_INTERLEAVED {
            first = 2u * pair;
            second = first + 1u;
        }
        var a = qkv[at + first];
        var b = qkv[at + second];
        if head < Q_HEADS + KV_HEADS {
            a *= factor * head_weight(head, first);
            b *= factor * head_weight(head, second);
            let turned = a * cosine - b * sine;
            b = a * sine + b * cosine;
            a = turned;
            qkv[at + first] = a;
            qkv[at + second] = b;
        }
        rotated[first] = a;
        rotated[second] = b;
    }
    workgroupBarrier();
    if head >= Q_HEADS && lane < ROW_VECS {
        let which = (head - Q_HEADS) / KV_HEADS;
        let to = kv_row(block - segment.first, (head - Q_HEADS) % KV_HEADS, which, position % BLOCK) + lane;
        let i = lane * 8u;
        kv[to] = vec4(
            kv_pack(rotated[i], rotated[i + 1u]),
            kv_pack(rotated[i + 2u], rotated[i + 3u]),
            kv_pack(rotated[i + 4u], rotated[i + 5u]),
            kv_pack(rotated[i + 6u], rotated[i + 7u]),
        );
    }
}
