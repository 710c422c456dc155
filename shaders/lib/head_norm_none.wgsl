// Heads of queries and keys are taken as they are.
fn head_factor(lane: u32, at: u32) -> f32 {
    return 1.0;
}

fn head_weight(head: u32, dimension: u32) -> f32 {
    return 1.0;
}
