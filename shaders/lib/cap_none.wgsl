// Logits are taken as they are.
fn capped(logit: f32) -> f32 {
    return logit;
}

fn capped4(logits: vec4<f32>) -> vec4<f32> {
    return logits;
}

// capped(term.x + term.y * a) - capped(term.x + term.y * b), without the rounding of either.
fn capped_difference(term: vec2<f32>, a: f32, b: f32) -> f32 {
    return term.y * (a - b);
}
