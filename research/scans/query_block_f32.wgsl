// A step and a minimum per block and channel, folded into the query in f32 by 16 of a block's lanes: four a head (GROUP is
// 4), eight channels a lane. A record ends with 32 steps and 32 minima, f16.
const STEPS_AT: u32 = RECORD_VECS - 8u;

struct Query {
    weights: array<vec4<f32>, 8>,
}

var<workgroup> folded: array<vec4<f32>, PLACES * 32u>;
var<workgroup> offsets: array<f32, PLACES * 16u>;

fn prepare_query(lane: u32, first_head: u32, record: u32) {
    let within = lane % LANES;
    if within < 16u {
        let quarter = within % 4u;
        let at = (first_head + within / 4u) * QUERY_VECS + quarter * 2u;
        let low = bitcast<vec4<f32>>(queries[at]);
        let high = bitcast<vec4<f32>>(queries[at + 1u]);
        let steps = index[record + STEPS_AT + quarter];
        let minima = index[record + STEPS_AT + 4u + quarter];
        let to = lane / LANES * 16u + within;
        folded[to * 2u] = low * halves_low(steps);
        folded[to * 2u + 1u] = high * halves_high(steps);
        offsets[to] = dot(low, halves_low(minima)) + dot(high, halves_high(minima));
    }
    workgroupBarrier();
}

fn query_of(first_head: u32, h: u32, place: u32) -> Query {
    var query: Query;
    let at = (place * 16u + h * 4u) * 2u;
//!repeat 8 i
    query.weights[{i}] = folded[at + {i}];
//!end
    return query;
}

fn factor_of(first_head: u32, h: u32, place: u32) -> f32 {
    return query_scales[first_head + h];
}

fn offset_of(first_head: u32, h: u32, place: u32) -> f32 {
    let at = place * 16u + h * 4u;
    return query_scales[first_head + h] * (offsets[at] + offsets[at + 1u] + offsets[at + 2u] + offsets[at + 3u]);
}
