// Approximate logits from the codes of the index: with key ~ zero + u scale,
//   logit = SCALE (sum_c q[c] zero[c] + sigma sum_c w[c] u[c]),   w[c] = round(q[c] scale[c] / sigma) in int8,
// capped as that of attention, and sigma = max |q[c] scale[c]| / 127. A block has its own zeros and scales, so that a query is quantised once a block. A
// workgroup works on BLOCKS blocks of one KV head, LANES lanes a block, and on HEADS queries of the group: all of them, where
// workgroup memory holds them, or one of PARTS parts.
//!include <chunk>
//!include <cap>

const LANES: u32 = 16u;
const WORKGROUP: u32 = BLOCKS * LANES;
const TOKENS: u32 = BLOCK / LANES;
const Q_HEADS: u32 = KV_HEADS * GROUP;
const CODE_CHUNKS: u32 = CODE_WORDS / CHUNK_WORDS;
const QUERY_CHUNKS: u32 = CODE_CHUNKS * PLANES;
const LANE_CHANNELS: u32 = (CHANNELS + LANES - 1u) / LANES;

@group(0) @binding(1) var<uniform> segment: Segment;
@group(0) @binding(2) var<storage, read> qkv: array<f32>;
@group(0) @binding(3) var<storage, read> channels: array<u32>;
@group(0) @binding(4) var<storage, read> codes: array<Chunk>;

// Queries on the channels.
var<workgroup> kept: array<f32, HEADS * CHANNELS>;
// Of each block and channel: its scale.
var<workgroup> scales: array<f32, BLOCKS * CHANNELS>;
// Of each query and lane, used twice. Here: of the lane's channels the largest |q scale|, and the sum of q zero.
var<workgroup> pairs: array<vec2<f32>, HEADS * WORKGROUP>;
// Of each block and query: its codes in the order of a token's, chunk by chunk and in each plane by plane.
var<workgroup> queries: array<Chunk, BLOCKS * HEADS * QUERY_CHUNKS>;
// Of each block and query: logit = capped(x + y * integer logit).
var<workgroup> terms: array<vec2<f32>, BLOCKS * HEADS>;

// Zero and scale of a channel, where a head-block's index begins at `at`.
fn range_of(at: u32, channel: u32) -> vec2<f32> {
    let word = at + channel;
    return unpack2x16float(chunk_word(codes[word / CHUNK_WORDS], word % CHUNK_WORDS));
}

// The first of the four channels of a query chunk's word.
fn first_channel(chunk: u32, word: u32) -> u32 {
    return ((chunk / PLANES * CHUNK_WORDS + word) * PLANES + chunk % PLANES) * 4u;
}

// Quantises HEADS queries, from number `first` of the group on, for the block of each lane, whose index begins at `at`.
// Every lane must call.
fn quantise_queries(lane: u32, row: u32, kv_head: u32, first: u32, at: u32) {
    let place = lane / LANES;
    // A lane's channels: every LANES-th.
    var ranges = array<vec2<f32>, LANE_CHANNELS>();
    for (var i = 0u; i < LANE_CHANNELS; i++) {
        let channel = lane % LANES + i * LANES;
        if channel < CHANNELS {
            ranges[i] = range_of(at, channel);
            scales[place * CHANNELS + channel] = ranges[i].y;
        }
    }
    for (var i = lane; i < HEADS * CHANNELS; i += WORKGROUP) {
        let dimension = channels[channel_at(row_sequence(row), kv_head, i % CHANNELS)];
        kept[i] = qkv[row * ROW_WIDTH + (kv_head * GROUP + first + i / CHANNELS) * HEAD_DIM + dimension];
    }
    workgroupBarrier();
    for (var h = 0u; h < HEADS; h++) {
        var pair = vec2(0.0);
        for (var i = 0u; i < LANE_CHANNELS; i++) {
            // Past the last channel the range is nothing.
            let q = kept[h * CHANNELS + min(lane % LANES + i * LANES, CHANNELS - 1u)];
            pair = vec2(max(pair.x, abs(q * ranges[i].y)), pair.y + q * ranges[i].x);
        }
        pairs[h * WORKGROUP + lane] = pair;
    }
    workgroupBarrier();
    for (var item = lane % LANES; item < HEADS * QUERY_CHUNKS; item += LANES) {
        let head = item / QUERY_CHUNKS;
        var whole = vec2(0.0);
        for (var i = 0u; i < LANES; i++) {
            let pair = pairs[head * WORKGROUP + place * LANES + i];
            whole = vec2(max(whole.x, pair.x), whole.y + pair.y);
        }
        // A query of zeros has the code zero.
        let to_code = select(127.0 / whole.x, 0.0, whole.x == 0.0);
        var words = array<u32, CHUNK_WORDS>();
        for (var word = 0u; word < CHUNK_WORDS; word++) {
            let channel = first_channel(item % QUERY_CHUNKS, word);
            for (var i = 0u; i < 4u; i++) {
                let folded = kept[head * CHANNELS + channel + i] * scales[place * CHANNELS + channel + i];
                let w = i32(clamp(round(folded * to_code), -127.0, 127.0));
                words[word] |= (bitcast<u32>(w) & 0xffu) << (8u * i);
            }
        }
        queries[(place * HEADS + head) * QUERY_CHUNKS + item % QUERY_CHUNKS] = chunk_of(words);
        if item % QUERY_CHUNKS == 0u {
            terms[place * HEADS + head] = vec2(whole.y * SCALE, whole.x / 127.0 * SCALE);
        }
    }
    workgroupBarrier();
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

// A query's codes for one block.
struct Query {
    chunks: array<Chunk, QUERY_CHUNKS>,
}

// query: place of the block in the workgroup * HEADS + place of the query among those quantised.
fn query_of(query: u32) -> Query {
    var chunks = Query();
    for (var i = 0u; i < QUERY_CHUNKS; i++) {
        chunks.chunks[i] = queries[query * QUERY_CHUNKS + i];
    }
    return chunks;
}

// Exact: at most 127 * 128 * CHANNELS.
fn integer_logit(query: Query, token: Codes) -> i32 {
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
