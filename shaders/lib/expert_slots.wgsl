// The experts of each token, as the router chose them. The including file provides
//   slots: array<vec2<u32>>    [token][SLOTS]: expert and weight
fn slot_expert(token: u32, slot: u32) -> u32 {
    return slots[token * SLOTS + slot].x;
}

fn slot_weight(token: u32, slot: u32) -> f32 {
    return bitcast<f32>(slots[token * SLOTS + slot].y);
}
