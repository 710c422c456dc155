// A token's codes are read a word at a time.
alias Chunk = u32;

fn chunk_word(chunk: Chunk, i: u32) -> u32 {
    return chunk;
}
