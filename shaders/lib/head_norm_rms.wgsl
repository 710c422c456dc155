// Each head of queries and keys is normed (RMSNorm over the head's dimensions) before it turns: its values times
// head_factor times head_weight. All query heads share weights, and all KV heads.
@group(0) @binding(4) var<storage, read> q_weight: array<f32>;
@group(0) @binding(5) var<storage, read> k_weight: array<f32>;

// Every lane must call.
fn head_factor(lane: u32, at: u32) -> f32 {
    var sum = 0.0;
    for (var i = lane; i < HEAD_DIM; i += WORKGROUP) {
        sum += qkv[at + i] * qkv[at + i];
    }
    return inverseSqrt(workgroup_sum(lane, sum) / f32(HEAD_DIM) + EPSILON);
}

fn head_weight(head: u32, dimension: u32) -> f32 {
    if head < Q_HEADS {
        return q_weight[dimension];
    }
    return k_weight[dimension];
}
