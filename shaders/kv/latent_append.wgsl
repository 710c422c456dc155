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

// At least as many as there are pairs, of which queries of up to 256 dimensions have fewer.
const WORKGROUP: u32 = 128u;
const HEADS: u32 = GROUP;
const ROPE: u32 = HEAD_DIM - VALUE_DIM;
const PAIRS: u32 = ROPE / 2u;
const LATENT_PARTS: u32 = (VALUE_DIM + WORKGROUP - 1u) / WORKGROUP;
const QUERY_DIM: u32 = NOPE + ROPE;

var<workgroup> cached: array<f32, HEAD_DIM>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = lane_of(local, WORKGROUP);
    let head = group.x;
    let row = group.y;
    let to = row * ROW_WIDTH + head * HEAD_DIM;
    // Everything that is read is asked for before a lane waits for any of it.
    let pair = min(lane, PAIRS - 1u);
    let at = row * DOWN_STRIDE + LATENT_AT;
    let query_at = (row * HEADS + head) * QUERY_DIM + NOPE + 2u * pair;
    let key_at = at + VALUE_DIM + 2u * pair;
    var turned = vec2(0.0);
    var latent: array<f32, LATENT_PARTS>;
    var weights: array<f32, LATENT_PARTS>;
    if head < HEADS {
        turned = vec2(queries[query_at], queries[query_at + 1u]);
    } else {
        turned = vec2(down[key_at], down[key_at + 1u]);
        for (var i = 0u; i < LATENT_PARTS; i++) {
            let place = min(lane + i * WORKGROUP, VALUE_DIM - 1u);
            latent[i] = down[at + place];
            weights[i] = weight[place];
        }
    }
    let angle = step[H_ANGLES_AT] + (row * PAIRS + pair) * 2u;
    let cosine = bitcast<f32>(step[angle]);
    let sine = bitcast<f32>(step[angle + 1u]);
    let position = row_position(row);
    let block = row_block(row, position / BLOCK);
    if block < segment.first || block - segment.first >= segment.blocks {
        return;
    }
    turned = vec2(turned.x * cosine - turned.y * sine, turned.x * sine + turned.y * cosine);
    if head < HEADS {
        if lane < PAIRS {
            queries[query_at] = turned.x;
            queries[query_at + 1u] = turned.y;
            latents[to + VALUE_DIM + 2u * pair] = turned.x;
            latents[to + VALUE_DIM + 2u * pair + 1u] = turned.y;
        }
        return;
    }
    var sum = 0.0;
    for (var i = 0u; i < LATENT_PARTS; i++) {
        sum += select(0.0, latent[i] * latent[i], lane + i * WORKGROUP < VALUE_DIM);
    }
    let factor = inverseSqrt(workgroup_sum(lane, sum) / f32(VALUE_DIM) + EPSILON);
    for (var i = 0u; i < LATENT_PARTS; i++) {
        if lane + i * WORKGROUP < VALUE_DIM {
            cached[lane + i * WORKGROUP] = latent[i] * factor * weights[i];
        }
    }
    if lane < PAIRS {
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
            //!repeat 4 k
            kv_pack(cached[i{+2*k}], cached[i{+2*k+1}]),
            //!end
        );
    }
}
