// Latent attention's part of a row (arXiv 2405.04434): rotates the last ROPE dimensions of each head's query in place, norms
// the latent of keys and values, rotates the key that all heads share, and appends both to the cache. What absorbed
// attention reads is written to `latents`: each head's rotated part, and after the heads the cached row. One dispatch a
// segment that rows append to. Pairs are neighbours. Grid: (heads + 1, rows).
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include <kv>
//!include <reduce>

@group(0) @binding(1) var<uniform> segment: Segment;
// [row][head]: NOPE dimensions, then ROPE
@group(0) @binding(2) var<storage, read_write> queries: array<f32>;
// [row]: a latent of queries, then the latent of keys and values from LATENT_AT and the shared key
@group(0) @binding(3) var<storage, read> down: array<f32>;
@group(0) @binding(4) var<storage, read> weight: array<f32>;
// [row]: HEADS queries and the cached row, HEAD_DIM each
@group(0) @binding(5) var<storage, read_write> latents: array<f32>;
@group(0) @binding(6) var<storage, read_write> kv: array<vec4<u32>>;

const WORKGROUP: u32 = 64u;
const HEADS: u32 = GROUP;
const ROPE: u32 = HEAD_DIM - VALUE_DIM;
const QUERY_DIM: u32 = NOPE + ROPE;

var<workgroup> cached: array<f32, HEAD_DIM>;

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
    let to = row * ROW_WIDTH + head * HEAD_DIM;
    if head < HEADS {
        let at = (row * HEADS + head) * QUERY_DIM + NOPE;
        for (var pair = lane; pair < ROPE / 2u; pair += WORKGROUP) {
            let turned = turn(row, pair, vec2(queries[at + 2u * pair], queries[at + 2u * pair + 1u]));
            queries[at + 2u * pair] = turned.x;
            queries[at + 2u * pair + 1u] = turned.y;
            latents[to + VALUE_DIM + 2u * pair] = turned.x;
            latents[to + VALUE_DIM + 2u * pair + 1u] = turned.y;
        }
        return;
    }
    let at = row * DOWN_STRIDE + LATENT_AT;
    var sum = 0.0;
    for (var i = lane; i < VALUE_DIM; i += WORKGROUP) {
        sum += down[at + i] * down[at + i];
    }
    let factor = inverseSqrt(workgroup_sum(lane, sum) / f32(VALUE_DIM) + EPSILON);
    for (var i = lane; i < VALUE_DIM; i += WORKGROUP) {
        cached[i] = down[at + i] * factor * weight[i];
    }
    for (var pair = lane; pair < ROPE / 2u; pair += WORKGROUP) {
        let key_at = at + VALUE_DIM + 2u * pair;
        let turned = turn(row, pair, vec2(down[key_at], down[key_at + 1u]));
        cached[VALUE_DIM + 2u * pair] = turned.x;
        cached[VALUE_DIM + 2u * pair + 1u] = turned.y;
    }
    workgroupBarrier();
    for (var i = lane; i < HEAD_DIM; i += WORKGROUP) {
        latents[to + i] = cached[i];
    }
    let cache_at = kv_row(block - segment.first, 0u, KEYS, position % BLOCK);
    for (var vec = lane; vec < ROW_VECS; vec += WORKGROUP) {
        let i = vec * 8u;
        kv[cache_at + vec] = vec4(
            kv_pack(cached[i], cached[i + 1u]),
            kv_pack(cached[i + 2u], cached[i + 3u]),
            kv_pack(cached[i + 4u], cached[i + 5u]),
            kv_pack(cached[i + 6u], cached[i + 7u]),
        );
    }
}

fn turn(row: u32, pair: u32, values: vec2<f32>) -> vec2<f32> {
    let angle = step[H_ANGLES_AT] + (row * (ROPE / 2u) + pair) * 2u;
    let cosine = bitcast<f32>(step[angle]);
    let sine = bitcast<f32>(step[angle + 1u]);
    return vec2(values.x * cosine - values.y * sine, values.x * sine + values.y * cosine);
}
