// How many tokens there are: the step's rows (matvec).
fn token_count(token: u32) -> u32 {
    return step[H_ROWS];
}
