// A token's codes are read two words at a time.
alias Chunk = vec2<u32>;

fn chunk_plane(chunk: Chunk, plane: u32) -> Chunk {
    return (chunk >> vec2(BITS * plane)) & vec2(PLANE_MASK);
}

fn chunk_dot(a: Chunk, b: Chunk) -> i32 {
    return dot4I8Packed(a.x, b.x) + dot4I8Packed(a.y, b.y);
}

fn chunk_word(chunk: Chunk, i: u32) -> u32 {
    return chunk[i];
}

fn chunk_of(words: array<u32, CHUNK_WORDS>) -> Chunk {
    return vec2(words[0], words[1]);
}
