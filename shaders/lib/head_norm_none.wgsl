// Heads of queries and keys are taken as they are.
fn head_weights(head: u32, first: u32, second: u32) -> vec2<f32> {
    return vec2(1.0);
}

fn head_factor(lane: u32, squares: f32) -> f32 {
    return 1.0;
}
