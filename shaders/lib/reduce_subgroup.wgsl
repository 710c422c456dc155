// Reductions over the WORKGROUP lanes of a workgroup: subgroup operations first, then one value a subgroup through
// workgroup memory. Every lane must call, and every lane receives the result. Assumes that a subgroup holds
// consecutive lanes of a one-dimensional workgroup, which every implementation does and conformance cases check. Between two calls lanes
// have to wait at a barrier, as they do in every kernel that calls twice: the next one overwrites what is read here.
var<workgroup> reduce_scratch: array<f32, WORKGROUP>;

fn workgroup_sum(lane: u32, value: f32) -> f32 {
    let size = subgroupAdd(1u);
    let part = subgroupAdd(value);
    if lane % size == 0u {
        reduce_scratch[lane / size] = part;
    }
    workgroupBarrier();
    var total = 0.0;
    for (var i = 0u; i * size < WORKGROUP; i++) {
        total += reduce_scratch[i];
    }
    return total;
}

fn workgroup_max(lane: u32, value: f32) -> f32 {
    let size = subgroupAdd(1u);
    let part = subgroupMax(value);
    if lane % size == 0u {
        reduce_scratch[lane / size] = part;
    }
    workgroupBarrier();
    var largest = reduce_scratch[0];
    for (var i = 1u; i * size < WORKGROUP; i++) {
        largest = max(largest, reduce_scratch[i]);
    }
    return largest;
}
