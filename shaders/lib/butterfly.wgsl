// Sums and maxima over each `lanes` consecutive lanes of a subgroup, a power of two, by exchanges with neighbours. All lanes must call,
// and each receives what its own `lanes` come to. WGSL has functions for whole subgroups; NVIDIA's compiler makes three times the code of them, with ways
// for subgroups that lack lanes.

fn butterfly_sum(value: f32, lanes: u32) -> f32 {
    var all = value;
    for (var other = 1u; other < lanes; other = other * 2u) {
        all += subgroupShuffleXor(all, other);
    }
    return all;
}

fn butterfly_sum4(value: vec4<f32>, lanes: u32) -> vec4<f32> {
    var all = value;
    for (var other = 1u; other < lanes; other = other * 2u) {
        all += subgroupShuffleXor(all, other);
    }
    return all;
}

fn butterfly_max(value: f32, lanes: u32) -> f32 {
    var all = value;
    for (var other = 1u; other < lanes; other = other * 2u) {
        all = max(all, subgroupShuffleXor(all, other));
    }
    return all;
}

fn butterfly_max4(value: vec4<f32>, lanes: u32) -> vec4<f32> {
    var all = value;
    for (var other = 1u; other < lanes; other = other * 2u) {
        all = max(all, subgroupShuffleXor(all, other));
    }
    return all;
}

fn butterfly_count(value: u32, lanes: u32) -> u32 {
    var all = value;
    for (var other = 1u; other < lanes; other = other * 2u) {
        all += subgroupShuffleXor(all, other);
    }
    return all;
}

// The sum of this lane's and of those before it; `member` is the lane's number.
fn count_through(value: u32, member: u32, lanes: u32) -> u32 {
    var all = value;
    for (var before = 1u; before < lanes; before = before * 2u) {
        let other = subgroupShuffleUp(all, before);
        all += select(0u, other, member >= before);
    }
    return all;
}
