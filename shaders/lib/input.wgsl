// The inputs of matvec's kernels: as they are, or normed, where matrix.normed says how many floats of an input count. RMSNorm (arXiv
// 1910.07467): weights of the norm are applied to inputs as they are read, and the root of the mean square, known when all are
// read, to the product. Where inputs are normed, a place has one batch.
@group(0) @binding(7) var<storage, read> norm_weight: array<vec4<f32>>;

// Of each token, the sum of the squares of what this lane read.
var<private> squares: array<f32, TOKENS>;

// The i-th vec4 of the input that begins at x[at], that of the workgroup's given token; what lies beyond those that are normed does not
// count.
fn input(at: u32, i: u32, token: u32) -> vec4<f32> {
    let values = x[at + i];
    if matrix.normed == 0u {
        return values;
    }
    let here = vec4(4u * i) + vec4(0u, 1u, 2u, 3u) < vec4(matrix.normed);
    let counted = select(vec4(0.0), values, here);
    squares[token] += dot(counted, counted);
    return counted * norm_weight[i];
}

// The factor of a product. Every lane must call.
fn input_factor(lane: u32, token: u32) -> f32 {
    if matrix.normed == 0u {
        return 1.0;
    }
    return inverseSqrt(workgroup_sum(lane, squares[token]) / f32(matrix.normed) + matrix.epsilon);
}
