// Of one item, the scores of four of a KV head's query heads; a group's last quad may repeat its last head.
fn four_scores(first: u32, quad: u32, item: u32) -> vec4<f32> {
    let h = quad * 4u;
    return vec4(
        //!repeat 4 i
        scores[first + min(h{+i}, GROUP - 1u) * score_rows.stride + item],
        //!end
    );
}

// What a head's exponentials are multiplied by, of the sums of all of them; one that is repeated counts once.
fn head_factors(quad: u32, sums: vec4<f32>) -> vec4<f32> {
    let counts_once = vec4(quad * 4u) + vec4(0u, 1u, 2u, 3u) < vec4(GROUP);
    return select(vec4(0.0), 1.0 / (f32(GROUP) * sums), counts_once);
}
