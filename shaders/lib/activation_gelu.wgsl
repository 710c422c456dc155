// The activation of GeGLU (arXiv 2002.05202): GELU with tanh (arXiv 1606.08415), gate / 2 (1 + tanh(z)) where
// z = sqrt(2 / pi) (gate + 0.044715 gate^3). That is gate / (1 + exp(-2 z)), which no large gate overflows.
fn activated(gate: f32) -> f32 {
    return gate / (1.0 + exp(-1.5957691216 * (gate + 0.044715 * gate * gate * gate)));
}
