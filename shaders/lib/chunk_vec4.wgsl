// A token's codes are read four words at a time.
alias Chunk = vec4<u32>;

fn chunk_plane(chunk: Chunk, plane: u32) -> Chunk {
    return (chunk >> vec4(BITS * plane)) & vec4(PLANE_MASK);
}

fn chunk_dot(a: Chunk, b: Chunk) -> i32 {
    return dot4I8Packed(a.x, b.x) + dot4I8Packed(a.y, b.y) + dot4I8Packed(a.z, b.z) + dot4I8Packed(a.w, b.w);
}

fn chunk_word(chunk: Chunk, i: u32) -> u32 {
    return chunk[i];
}

fn chunk_of(words: array<u32, CHUNK_WORDS>) -> Chunk {
    return vec4(words[0], words[1], words[2], words[3]);
}
