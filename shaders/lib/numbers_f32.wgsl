// Numbers of rows, a word each.
fn word_of(i: u32) -> u32 {
    return i;
}

fn number(word: u32, i: u32) -> f32 {
    return bitcast<f32>(word);
}
