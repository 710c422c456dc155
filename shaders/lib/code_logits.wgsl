// L = sum over channels of w[c] * u[c]: the integer logit of a token's codes u under an int8 query code w, less a term that
// is the same for every token of the head. Exact: at most 127 * 15 * CHANNELS.
@group(0) @binding(1) var<uniform> segment: Segment;
// [row][query head][CHANNELS / 4] int8 codes, four a word, in the order of a token's codes
@group(0) @binding(2) var<storage, read> query_codes: array<vec4<u32>>;
// [row][query head]: the logit is scale * L
@group(0) @binding(3) var<storage, read> query_scales: array<f32>;
@group(0) @binding(4) var<storage, read> codes: array<vec4<u32>>;

const Q_HEADS: u32 = KV_HEADS * GROUP;

fn word_dot(low: u32, high: u32, word: u32) -> i32 {
    return dot4I8Packed(low, word & 0x0f0f0f0fu) + dot4I8Packed(high, (word >> 4u) & 0x0f0f0f0fu);
}

// A query's codes, loaded once for many tokens.
struct Query {
    a: array<vec4<u32>, CODE_VECS>,
    b: array<vec4<u32>, CODE_VECS>,
}

// head: row * Q_HEADS + query head.
fn query_of(head: u32) -> Query {
    var query = Query();
    for (var i = 0u; i < CODE_VECS; i++) {
        query.a[i] = query_codes[(head * CODE_VECS + i) * 2u];
        query.b[i] = query_codes[(head * CODE_VECS + i) * 2u + 1u];
    }
    return query;
}

fn code_logit(query: Query, token_row: u32) -> i32 {
    var q = query;
    var sum = 0;
    for (var i = 0u; i < CODE_VECS; i++) {
        let u = codes[token_row + i];
        let a = q.a[i];
        let b = q.b[i];
        sum += word_dot(a.x, a.y, u.x) + word_dot(a.z, a.w, u.y) + word_dot(b.x, b.y, u.z) + word_dot(b.z, b.w, u.w);
    }
    return sum;
}
