// As reduce_subgroup.wgsl, for subgroups of SUBGROUP lanes.
//!include lib/butterfly.wgsl

var<workgroup> reduce_scratch: array<f32, WORKGROUP / SUBGROUP>;

fn workgroup_sum(lane: u32, value: f32) -> f32 {
    let part = butterfly_sum(value, SUBGROUP);
    if lane % SUBGROUP == 0u {
        reduce_scratch[lane / SUBGROUP] = part;
    }
    workgroupBarrier();
    var total = 0.0;
    for (var i = 0u; i < WORKGROUP / SUBGROUP; i++) {
        total += reduce_scratch[i];
    }
    return total;
}

fn workgroup_max(lane: u32, value: f32) -> f32 {
    let part = butterfly_max(value, SUBGROUP);
    if lane % SUBGROUP == 0u {
        reduce_scratch[lane / SUBGROUP] = part;
    }
    workgroupBarrier();
    var largest = reduce_scratch[0];
    for (var i = 1u; i < WORKGROUP / SUBGROUP; i++) {
        largest = max(largest, reduce_scratch[i]);
    }
    return largest;
}
