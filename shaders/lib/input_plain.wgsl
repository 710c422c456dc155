// A product's inputs as they are (matvec).

// The i-th vec4 of the input that begins at x[at], that of the workgroup's given token.
fn input(at: u32, i: u32, token: u32) -> vec4<f32> {
    return x[at + i];
}

// The factor of a product. Every lane must call.
fn input_factor(lane: u32, token: u32) -> f32 {
    return 1.0;
}
