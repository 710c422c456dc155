// A token's codes are read four words at a time.
alias Chunk = vec4<u32>;

fn chunk_plane(chunk: Chunk, plane: u32) -> Chunk {
    return (chunk >> vec4(BITS * plane)) & vec4(PLANE_MASK);
}

fn chunk_dot(a: Chunk, b: Chunk) -> i32 {
    return dot4I8Packed(a.x, b.x) + dot4I8Packed(a.y, b.y) + dot4I8Packed(a.z, b.z) + dot4I8Packed(a.w, b.w);
}
