// Where a group has many query heads, what their scores are softmaxed by is found before top_k, a workgroup a head: one workgroup
// would read the scores of all of them twice. A head's largest score, and what exponentials relative to it are multiplied by:
// 1 / (GROUP * their sum), over all items.
// Grid: (query heads, rows).
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include lib/budget.wgsl
//!include lib/ranked.wgsl
//!include <reduce>
//!include <items>

// [row][query head]
@group(0) @binding(3) var<storage, read_write> head_terms: array<vec2<f32>>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = lane_of(local, WORKGROUP);
    let row = group.y;
    // Tokens may be ranked by what softmaxes blocks, of a row that keeps all of these too.
    if !is_ranked(row) && (!KEEPS_TERMS || items_chosen(row) == 0u) {
        return;
    }
    let items = item_count(row);
    let head = row * KV_HEADS * GROUP + group.x;
    let first = head * score_rows.stride;
    var most = -3.0e38;
    for (var i = lane; i < items; i += 4u * WORKGROUP) {
        //!repeat 4 j
        let x{j} = scores[first + min(i{+j*WORKGROUP}, items - 1u)];
        //!end
        most = max(most, max(max(x0, x1), max(x2, x3)));
    }
    most = workgroup_max(lane, most);
    // The maximum is read before the next reduction begins.
    workgroupBarrier();
    var sum = 0.0;
    for (var i = lane; i < items; i += 4u * WORKGROUP) {
        //!repeat 4 j
        let x{j} = scores[first + min(i{+j*WORKGROUP}, items - 1u)];
        //!end
        //!repeat 4 j
        sum += select(0.0, exp(x{j} - most), i{+j*WORKGROUP} < items);
        //!end
    }
    sum = workgroup_sum(lane, sum);
    if lane == 0u {
        head_terms[head] = vec2(most, 1.0 / (f32(GROUP) * sum));
    }
}
