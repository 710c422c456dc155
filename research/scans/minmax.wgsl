// Bounds of the block: the sum over channels of relu(q) kmax + min(q, 0) kmin, one score per KV head, since the queries of
// the group are summed first (query: 128 positive sums, then 128 negative ones, f32). A record holds kmin and kmax, f16, of
// each of UNITS runs of tokens; the score is the largest of theirs. 16 lanes a block, eight channels a lane.
// Grid: (ceil(blocks / BLOCKS_A_WORKGROUP), KV heads, rows).
//!include scans/lib.wgsl

var<workgroup> partial: array<f32, WORKGROUP * BLOCKS_A_LANE * UNITS>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let kv_head = group.y;
    let row = group.z;
    let head = row * KV_HEADS + kv_head;
    let first_block = group.x * BLOCKS_A_WORKGROUP;
    let place = lane / LANES;
    let within = lane % LANES;
//!repeat BLOCKS_A_LANE b
    let record_{b} = record_of(row, kv_head, first_block + {b} * PLACES + place);
//!repeat UNITS u
    let low_{b}_{u} = index[record_{b} + {u} * 32u + within];
    let high_{b}_{u} = index[record_{b} + {u} * 32u + 16u + within];
//!end
//!end
    let at = head * QUERY_VECS + within * 2u;
    let positive_low = bitcast<vec4<f32>>(queries[at]);
    let positive_high = bitcast<vec4<f32>>(queries[at + 1u]);
    let negative_low = bitcast<vec4<f32>>(queries[at + 32u]);
    let negative_high = bitcast<vec4<f32>>(queries[at + 33u]);
//!repeat BLOCKS_A_LANE b
//!repeat UNITS u
    partial[({b} * UNITS + {u}) * WORKGROUP + lane] =
        dot(positive_low, halves_low(high_{b}_{u})) + dot(positive_high, halves_high(high_{b}_{u}))
        + dot(negative_low, halves_low(low_{b}_{u})) + dot(negative_high, halves_high(low_{b}_{u}));
//!end
//!end
    workgroupBarrier();
    for (var item = lane; item < BLOCKS_A_WORKGROUP; item += WORKGROUP) {
        let b = item / PLACES;
        var best = -3.0e38;
        for (var u = 0u; u < UNITS; u++) {
            var sum = 0.0;
            for (var i = 0u; i < LANES; i++) {
                sum += partial[(b * UNITS + u) * WORKGROUP + item % PLACES * LANES + (item + i) % LANES];
            }
            best = max(best, sum);
        }
        if first_block + item < scan.blocks {
            scores[head * scan.blocks + first_block + item] = query_scales[head] * best;
        }
    }
}
