// A token's codes are read two words at a time.
alias Chunk = vec2<u32>;

fn chunk_plane(chunk: Chunk, plane: u32) -> Chunk {
    return (chunk >> vec2(BITS * plane)) & vec2(PLANE_MASK);
}

fn chunk_dot(a: Chunk, b: Chunk) -> i32 {
    return dot4I8Packed(a.x, b.x) + dot4I8Packed(a.y, b.y);
}
