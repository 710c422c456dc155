// Each head of queries and keys is normed (RMSNorm over the head's dimensions) before it turns: its values times
// head_factor times head_weights. All query heads share weights, and all KV heads.
@group(0) @binding(4) var<storage, read> q_weight: array<f32>;
@group(0) @binding(5) var<storage, read> k_weight: array<f32>;

// Of two dimensions.
fn head_weights(head: u32, first: u32, second: u32) -> vec2<f32> {
    if head < Q_HEADS {
        return vec2(q_weight[first], q_weight[second]);
    }
    return vec2(k_weight[first], k_weight[second]);
}

// `squares`: the sum of the squares of this lane's values. Every lane must call.
fn head_factor(lane: u32, squares: f32) -> f32 {
    return inverseSqrt(workgroup_sum(lane, squares) / f32(HEAD_DIM) + EPSILON);
}
