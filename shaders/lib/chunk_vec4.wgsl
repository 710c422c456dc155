// A token's codes are read four words at a time.
alias Chunk = vec4<u32>;

fn chunk_word(chunk: Chunk, i: u32) -> u32 {
    return chunk[i];
}
