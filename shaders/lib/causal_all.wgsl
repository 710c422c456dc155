// What a row of prefill attends: all tokens up to its own.
fn first_attended(position: u32) -> u32 {
    return 0u;
}

// Of these tokens, which are attended by rows whose tokens end there.
fn attends(tokens: vec4<u32>, ends: vec4<u32>) -> vec4<bool> {
    return tokens < ends;
}
