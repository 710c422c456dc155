// What the lanes of a block have found of each query, joined through workgroup memory.
//!include lib/join_terms.wgsl

// Of each query and lane, used twice: what join_queries is given, and then the sums of a block's lanes.
var<workgroup> pairs: array<vec2<f32>, HEADS * WORKGROUP>;
// Of each block and query.
var<workgroup> terms: array<vec2<f32>, BLOCKS * HEADS>;
var<workgroup> code_factors: array<f32, BLOCKS * HEADS>;

fn keep_pairs(lane: u32, quad: u32, first: vec4<f32>, second: vec4<f32>) {
    //!repeat QUAD h
    let query{h} = quad * QUAD{+h};
    if query{h} < HEADS {
        pairs[query{h} * WORKGROUP + lane] = vec2(first[{h}], second[{h}]);
    }
    //!end
}

// Of a quad of queries the largest |q scale|, and the sum of q zero, of the lane's channels.
fn join_queries(lane: u32, quad: u32, most: vec4<f32>, sum: vec4<f32>) {
    keep_pairs(lane, quad, most, sum);
}

// Every lane must call, once all queries are joined.
fn await_queries(lane: u32) {
    let place = lane / LANES;
    let part = lane % LANES;
    workgroupBarrier();
    // A lane a query, which begins at its own place among the block's lanes, so that lanes meet different banks.
    for (var h = part; h < HEADS; h += LANES) {
        var whole = vec2(0.0);
        for (var i = 0u; i < LANES; i++) {
            let pair = pairs[h * WORKGROUP + place * LANES + (part + i) % LANES];
            whole = vec2(max(whole.x, pair.x), whole.y + pair.y);
        }
        terms[place * HEADS + h] = query_term(whole.x, whole.y);
        code_factors[place * HEADS + h] = factor_of(whole.x);
    }
    workgroupBarrier();
}

// logit = capped(x + y * integer logit), of a block's query.
fn term_of(place: u32, quad: u32, h: u32) -> vec2<f32> {
    return terms[place * HEADS + min(quad * QUAD + h, HEADS - 1u)];
}

// What makes codes of its q scale.
fn code_factor(place: u32, quad: u32, h: u32) -> f32 {
    return code_factors[place * HEADS + min(quad * QUAD + h, HEADS - 1u)];
}
