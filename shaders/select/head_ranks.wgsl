// The ranks of items for top_k, where head_sums has found what the scores of a group are softmaxed by: averaged over the group,
// s_i = (1/G) sum_h softmax_h(x_h)[i].
// Grid: (as many workgroups as take turns at the items, KV heads, rows).
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include lib/budget.wgsl
//!include lib/ranked.wgsl
//!include <items>

// [row][query head]
@group(0) @binding(3) var<storage, read> head_terms: array<vec2<f32>>;
// [row][KV head][stride]: the bits of s_i
@group(0) @binding(4) var<storage, read_write> keys: array<u32>;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let lane = lane_of(local, WORKGROUP);
    let kv_head = group.y;
    let row = group.z;
    if !is_ranked(row) {
        return;
    }
    let items = item_count(row);
    let first_head = row * KV_HEADS * GROUP + kv_head * GROUP;
    for (var i = group.x * WORKGROUP + lane; i < items; i += groups.x * WORKGROUP) {
        var s = 0.0;
        for (var head = 0u; head < GROUP; head += 4u) {
            //!repeat 4 j
            let h{j} = first_head + min(head{+j}, GROUP - 1u);
            let x{j} = scores[h{j} * score_rows.stride + i];
            let terms{j} = head_terms[h{j}];
            //!end
            //!repeat 4 j
            s += select(0.0, exp(x{j} - terms{j}.x) * terms{j}.y, head{+j} < GROUP);
            //!end
        }
        keys[(row * KV_HEADS + kv_head) * score_rows.stride + i] = bitcast<u32>(s);
    }
}
