// Reductions over the WORKGROUP lanes of a workgroup, in workgroup memory: needs no feature. Every lane must call,
// and every lane receives the result. The tree's order is fixed, so the same input gives the same bits. Between
// two calls lanes have to wait at a barrier, as they do in every kernel that calls twice: the next one overwrites what is read here.
var<workgroup> reduce_scratch: array<f32, WORKGROUP>;

fn workgroup_sum(lane: u32, value: f32) -> f32 {
    reduce_scratch[lane] = value;
    workgroupBarrier();
    for (var half = WORKGROUP / 2u; half > 0u; half = half / 2u) {
        if lane < half {
            reduce_scratch[lane] += reduce_scratch[lane + half];
        }
        workgroupBarrier();
    }
    return reduce_scratch[0];
}

fn workgroup_max(lane: u32, value: f32) -> f32 {
    reduce_scratch[lane] = value;
    workgroupBarrier();
    for (var half = WORKGROUP / 2u; half > 0u; half = half / 2u) {
        if lane < half {
            reduce_scratch[lane] = max(reduce_scratch[lane], reduce_scratch[lane + half]);
        }
        workgroupBarrier();
    }
    return reduce_scratch[0];
}
