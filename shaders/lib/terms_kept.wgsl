// What blocks' scores are softmaxed by is kept: level 2 ranks tokens by it.
const KEEPS_TERMS: bool = true;

// [row][query head]: the largest score, and what exponentials relative to it are multiplied by
@group(0) @binding(6) var<storage, read_write> head_terms: array<vec2<f32>>;

fn keep_term(head: u32, term: vec2<f32>) {
    head_terms[head] = term;
}
