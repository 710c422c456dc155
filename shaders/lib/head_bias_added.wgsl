// Queries, keys and values have biases, a number for each of a row's.
@group(0) @binding(6) var<storage, read> bias: array<f32>;
const HAS_BIAS: bool = true;

// Two dimensions of a head, with theirs.
fn with_bias(values: vec2<f32>, head: u32, first: u32, second: u32) -> vec2<f32> {
    return values + vec2(bias[head * HEAD_DIM + first], bias[head * HEAD_DIM + second]);
}
