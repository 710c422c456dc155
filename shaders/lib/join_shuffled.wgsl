// As join_memory.wgsl, where a block's lanes are in one subgroup: each has the terms of its own block.
//!include lib/join_terms.wgsl
//!include lib/butterfly.wgsl

// Of each quad of queries: largest |q scale|, and sum of q zero, of all channels.
var<private> largest: array<vec4<f32>, QUADS>;
var<private> sums: array<vec4<f32>, QUADS>;

fn join_queries(lane: u32, quad: u32, most: vec4<f32>, sum: vec4<f32>) {
    largest[quad] = butterfly_max4(most, LANES);
    sums[quad] = butterfly_sum4(sum, LANES);
}

fn await_queries(lane: u32) {}

fn term_of(place: u32, quad: u32, h: u32) -> vec2<f32> {
    return query_term(largest[quad][h], sums[quad][h]);
}

fn code_factor(place: u32, quad: u32, h: u32) -> f32 {
    return factor_of(largest[quad][h]);
}
