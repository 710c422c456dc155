// An expert's score: the sigmoid of its logit; it is chosen by its score and a bias that evens the load out (arXiv 2408.15664).
@group(0) @binding(3) var<storage, read> bias: array<f32>;

fn gate_score(logit: f32, largest: f32) -> f32 {
    return 1.0 / (1.0 + exp(-logit));
}

fn gate_choice(score: f32, expert: u32) -> f32 {
    return score + bias[expert];
}

// The divisor of scores where the chosen ones are not to sum to one.
fn gate_whole() -> f32 {
    return 1.0;
}
