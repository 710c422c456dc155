// With a frozen step the query's codes are the same for every block: int8, four a word. They wait in workgroup memory,
// where streaming codes cannot evict them.
struct Query {
    words: array<vec4<u32>, QUERY_VECS>,
}

var<workgroup> staged: array<vec4<u32>, GROUP * QUERY_VECS>;

fn prepare_query(lane: u32, first_head: u32, record: u32) {
    if lane < GROUP * QUERY_VECS {
        staged[lane] = queries[first_head * QUERY_VECS + lane];
    }
    workgroupBarrier();
}

fn query_of(first_head: u32, h: u32, place: u32) -> Query {
    var query: Query;
//!repeat QUERY_VECS i
    query.words[{i}] = staged[h * QUERY_VECS + {i}];
//!end
    return query;
}

fn factor_of(first_head: u32, h: u32, place: u32) -> f32 {
    return query_scales[first_head + h];
}

// What the minima add is the same for every block of a head, and cancels in the softmax over blocks.
fn offset_of(first_head: u32, h: u32, place: u32) -> f32 {
    return 0.0;
}
