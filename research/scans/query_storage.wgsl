// As query_frozen.wgsl, but read from storage for every block.
struct Query {
    words: array<vec4<u32>, QUERY_VECS>,
}

fn prepare_query(lane: u32, first_head: u32, record: u32) {
}

fn query_of(first_head: u32, h: u32, place: u32) -> Query {
    var query: Query;
//!repeat QUERY_VECS i
    query.words[{i}] = queries[(first_head + h) * QUERY_VECS + {i}];
//!end
    return query;
}

fn factor_of(first_head: u32, h: u32, place: u32) -> f32 {
    return query_scales[first_head + h];
}

fn offset_of(first_head: u32, h: u32, place: u32) -> f32 {
    return 0.0;
}
