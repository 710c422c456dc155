// What a row attends in a layer with a sliding window: so many tokens, its own the last of them.
fn first_attended(position: u32) -> u32 {
    return position + 1u - min(position + 1u, SLIDING_WINDOW);
}

// Of these tokens, which are attended by rows whose tokens end there.
fn attends(tokens: vec4<u32>, ends: vec4<u32>) -> vec4<bool> {
    return (tokens < ends) & (ends - tokens <= vec4(SLIDING_WINDOW));
}
