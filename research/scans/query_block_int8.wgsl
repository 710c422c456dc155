// As query_block_f32.wgsl, but the folded query is quantised to int8 for each block, so that tokens are scored in integers.
const STEPS_AT: u32 = RECORD_VECS - 8u;

struct Query {
    words: array<vec4<u32>, 2>,
}

var<workgroup> folded: array<vec2<u32>, WORKGROUP>;
var<workgroup> maxima: array<f32, WORKGROUP>;
var<workgroup> offsets: array<f32, WORKGROUP>;

fn prepare_query(lane: u32, first_head: u32, record: u32) {
    let h = lane % LANES / 4u;
    let quarter = lane % 4u;
    let at = (first_head + h) * QUERY_VECS + quarter * 2u;
    let low = bitcast<vec4<f32>>(queries[at]);
    let high = bitcast<vec4<f32>>(queries[at + 1u]);
    let steps = index[record + STEPS_AT + quarter];
    let minima = index[record + STEPS_AT + 4u + quarter];
    let low_weights = low * halves_low(steps);
    let high_weights = high * halves_high(steps);
    let most = max(abs(low_weights), abs(high_weights));
    maxima[lane] = max(max(most.x, most.y), max(most.z, most.w));
    offsets[lane] = dot(low, halves_low(minima)) + dot(high, halves_high(minima));
    workgroupBarrier();
    let largest = largest_weight(lane / 4u * 4u);
    let to_code = select(127.0 / largest, 0.0, largest == 0.0);
    folded[lane] = vec2(
        pack4xI8(vec4<i32>(round(low_weights * to_code))),
        pack4xI8(vec4<i32>(round(high_weights * to_code))),
    );
    workgroupBarrier();
}

fn largest_weight(first: u32) -> f32 {
    return max(max(maxima[first], maxima[first + 1u]), max(maxima[first + 2u], maxima[first + 3u]));
}

fn query_of(first_head: u32, h: u32, place: u32) -> Query {
    var query: Query;
    let at = place * LANES + h * 4u;
    query.words[0] = vec4(folded[at], folded[at + 1u]);
    query.words[1] = vec4(folded[at + 2u], folded[at + 3u]);
    return query;
}

fn factor_of(first_head: u32, h: u32, place: u32) -> f32 {
    return query_scales[first_head + h] * largest_weight(place * LANES + h * 4u) / 127.0;
}

fn offset_of(first_head: u32, h: u32, place: u32) -> f32 {
    let at = place * LANES + h * 4u;
    return query_scales[first_head + h] * (offsets[at] + offsets[at + 1u] + offsets[at + 2u] + offsets[at + 3u]);
}
