// A token's codes are read a word at a time.
alias Chunk = u32;

fn chunk_plane(chunk: Chunk, plane: u32) -> Chunk {
    return (chunk >> (BITS * plane)) & PLANE_MASK;
}

fn chunk_dot(a: Chunk, b: Chunk) -> i32 {
    return dot4I8Packed(a, b);
}

fn chunk_word(chunk: Chunk, i: u32) -> u32 {
    return chunk;
}

fn chunk_of(words: array<u32, CHUNK_WORDS>) -> Chunk {
    return words[0];
}
