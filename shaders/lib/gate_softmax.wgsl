// An expert's score: softmax over all experts (up to the common factor), by which it is also chosen.
fn gate_score(logit: f32, largest: f32) -> f32 {
    // Also where the largest is infinite, and its difference from itself is not a number.
    if logit == largest {
        return 1.0;
    }
    return exp(logit - largest);
}

fn gate_choice(score: f32, expert: u32) -> f32 {
    return score;
}

// The divisor of scores where the chosen ones are not to sum to one.
fn gate_whole() -> f32 {
    var sum = 0.0;
    for (var i = 0u; i < EXPERTS; i++) {
        sum += scores[i];
    }
    return sum;
}
