// Of a query by a block: what makes logits of integer ones, and codes of q scale, from the largest |q scale| and the sum of q zero.

fn query_term(most: f32, sum: f32) -> vec2<f32> {
    return vec2(sum * SCALE, most / LARGEST * SCALE);
}

// A query of zeros has the code zero.
fn factor_of(most: f32) -> f32 {
    return select(LARGEST / most, 0.0, most == 0.0);
}
