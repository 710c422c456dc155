// Logits have a soft-cap: CAP * tanh(logit / CAP), from -CAP to CAP (arXiv 2408.00118). tanh(x) is written as
// 1 - 2 / (exp(2 x) + 1): some drivers make their tanh of two exponentials, which overflow for large x, and whose quotient is no
// number then. Here an exponential that overflows makes 1, and one that vanishes -1. What is not a number stays so, whatever exp makes
// of it; compilers may assume that there is none, so the test is on bits.
fn capped4(logits: vec4<f32>) -> vec4<f32> {
    let is_number = (bitcast<vec4<u32>>(logits) & vec4(0x7fffffffu)) <= vec4(0x7f800000u);
    return select(logits, CAP - 2.0 * CAP / (exp(logits * (2.0 / CAP)) + 1.0), is_number);
}

fn capped(logit: f32) -> f32 {
    return capped4(vec4(logit)).x;
}

fn capped_difference(term: vec2<f32>, a: f32, b: f32) -> f32 {
    return capped(term.x + term.y * a) - capped(term.x + term.y * b);
}
