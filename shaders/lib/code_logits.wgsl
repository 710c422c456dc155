// L = sum over channels of w[c] * u[c]: the integer logit of a token's codes u under an int8 query code w, less a term that
// is the same for every token of the head. Exact: at most 127 * 255 * CHANNELS.
//!include <chunk>

@group(0) @binding(1) var<uniform> segment: Segment;
// [row][query head][CHANNELS / 4] int8 codes, four a word, chunk by chunk and in each plane by plane
@group(0) @binding(2) var<storage, read> query_codes: array<Chunk>;
// [row][query head]: the logit is scale * L
@group(0) @binding(3) var<storage, read> query_scales: array<f32>;
@group(0) @binding(4) var<storage, read> codes: array<Chunk>;

const Q_HEADS: u32 = KV_HEADS * GROUP;
const CODE_CHUNKS: u32 = CODE_WORDS / CHUNK_WORDS;
const QUERY_CHUNKS: u32 = CODE_CHUNKS * PLANES;

// A query's codes, loaded once for many tokens.
struct Query {
    chunks: array<Chunk, QUERY_CHUNKS>,
}

// head: row * Q_HEADS + query head.
fn query_of(head: u32) -> Query {
    var query = Query();
    for (var i = 0u; i < QUERY_CHUNKS; i++) {
        query.chunks[i] = query_codes[head * QUERY_CHUNKS + i];
    }
    return query;
}

// A token's codes, loaded once for all heads of its group.
struct Codes {
    chunks: array<Chunk, CODE_CHUNKS>,
}

// token_row: of code_row.
fn codes_of(token_row: u32) -> Codes {
    var token = Codes();
    for (var i = 0u; i < CODE_CHUNKS; i++) {
        token.chunks[i] = codes[token_row / CHUNK_WORDS + i];
    }
    return token;
}

fn code_logit(query: Query, token: Codes) -> i32 {
    var q = query;
    var t = token;
    var sum = 0;
    for (var i = 0u; i < CODE_CHUNKS; i++) {
        for (var plane = 0u; plane < PLANES; plane++) {
            sum += chunk_dot(q.chunks[i * PLANES + plane], chunk_plane(t.chunks[i], plane));
        }
    }
    return sum;
}
