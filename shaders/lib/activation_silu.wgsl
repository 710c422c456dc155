// The activation of SwiGLU (arXiv 2002.05202): SiLU.
fn activated(gate: f32) -> f32 {
    return gate / (1.0 + exp(-gate));
}
