// How many tokens there are, where a workgroup has one and the grid is their number (matvec).
fn token_count(token: u32) -> u32 {
    return token + 1u;
}
