// Numbers of rows, two a word.
fn word_of(i: u32) -> u32 {
    return i / 2u;
}

fn number(word: u32, i: u32) -> f32 {
    let both = unpack2x16float(word);
    return select(both.x, both.y, i % 2u == 1u);
}
