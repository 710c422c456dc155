// Approximate logits from the codes of the index: with key ~ zero + u scale,
//   logit = SCALE (sum_c q[c] zero[c] + sigma sum_c w[c] u[c]),   w[c] = round(q[c] scale[c] / sigma) in int8,
// capped as that of attention, and sigma = max |q[c] scale[c]| / 127. A block has its own zeros and scales, so that a query is quantised once a block. A
// workgroup works on BLOCKS blocks of one KV head, LANES lanes a block, and on HEADS queries of the group: all of them, where
// workgroup memory holds them, or one of PARTS parts. Queries are multiplied QUAD at a time, four at most, so that a plane of a
// token's codes is masked out once for all of these. One slot says how a block's lanes join what each has found.
//!include lib/rounding.wgsl
//!include <chunk>
//!include <cap>
//!include <join>

const WORKGROUP: u32 = BLOCKS * LANES;
const TOKENS: u32 = BLOCK / LANES;
const Q_HEADS: u32 = KV_HEADS * GROUP;
const CODE_CHUNKS: u32 = CODE_WORDS / CHUNK_WORDS;
// Words of a query's codes, four channels each: word w * PLANES + p goes with plane p of a token's word w.
const WORDS: u32 = CHANNELS / 4u;
// Of those a lane quantises every LANES-th.
const LANE_WORDS: u32 = (WORDS + LANES - 1u) / LANES;
const QUADS: u32 = (HEADS + QUAD - 1u) / QUAD;
// The largest code of a query.
const LARGEST: f32 = 127.0;

@group(0) @binding(1) var<uniform> segment: Segment;
@group(0) @binding(2) var<storage, read> qkv: array<f32>;
@group(0) @binding(3) var<storage, read> channels: array<u32>;
@group(0) @binding(4) var<storage, read> codes: array<Chunk>;

// Queries on the channels.
var<workgroup> kept: array<vec4<f32>, HEADS * WORDS>;
// Of each block, quad of queries and word: the word of each of them.
var<workgroup> queries: array<vec4<u32>, BLOCKS * QUADS * WORDS>;

// Zero and scale of a channel, where a head-block's index begins at `at`.
fn range_of(at: u32, channel: u32) -> vec2<f32> {
    let word = at + channel;
    return unpack2x16float(chunk_word(codes[word / CHUNK_WORDS], word % CHUNK_WORDS));
}

// Quantises HEADS queries, from number `first` of the group on, for the block of each lane, whose index begins at `at`.
// Every lane must call.
fn quantise_queries(lane: u32, row: u32, kv_head: u32, first: u32, at: u32) {
    let place = lane / LANES;
    let part = lane % LANES;
    var zeros = array<vec4<f32>, LANE_WORDS>();
    var scales = array<vec4<f32>, LANE_WORDS>();
    for (var i = 0u; i < LANE_WORDS; i++) {
        let word = part + i * LANES;
        if word < WORDS {
            //!repeat 4 c
            let range{c} = range_of(at, word * 4u{+c});
            //!end
            zeros[i] = vec4(range0.x, range1.x, range2.x, range3.x);
            scales[i] = vec4(range0.y, range1.y, range2.y, range3.y);
        }
    }
    let channels_at = channel_at(row_sequence(row), kv_head, 0u);
    for (var i = lane; i < HEADS * WORDS; i += WORKGROUP) {
        let q_at = row * ROW_WIDTH + (kv_head * GROUP + first + i / WORDS) * HEAD_DIM;
        let channel = channels_at + i % WORDS * 4u;
        kept[i] = vec4(
            //!repeat 4 c
            qkv[q_at + channels[channel{+c}]],
            //!end
        );
    }
    workgroupBarrier();
    for (var quad = 0u; quad < QUADS; quad++) {
        // Of the lane's channels the largest |q scale|, and the sum of q zero.
        var most = vec4(0.0);
        var sum = vec4(0.0);
        for (var i = 0u; i < LANE_WORDS; i++) {
            //!repeat QUAD h
            // The last quad may repeat the last query. Past the last word ranges are nothing.
            let q{h} = kept[min(quad * QUAD{+h}, HEADS - 1u) * WORDS + min(part + i * LANES, WORDS - 1u)];
            let folded{h} = abs(q{h} * scales[i]);
            most[{h}] = max(most[{h}], max(max(folded{h}.x, folded{h}.y), max(folded{h}.z, folded{h}.w)));
            sum[{h}] += dot(q{h}, zeros[i]);
            //!end
        }
        join_queries(lane, quad, most, sum);
    }
    await_queries(lane);
    for (var i = 0u; i < LANE_WORDS; i++) {
        let word = part + i * LANES;
        if word < WORDS {
            for (var quad = 0u; quad < QUADS; quad++) {
                var words = vec4(0u);
                //!repeat QUAD h
                // The last quad may repeat the last query.
                let head{h} = min(quad * QUAD{+h}, HEADS - 1u);
                let folded{h} = kept[head{h} * WORDS + word] * scales[i];
                // What is no number has some code.
                words[{h}] = pack4xI8(integers_of(folded{h} * code_factor(place, quad, {h}u)));
                //!end
                queries[(place * QUADS + quad) * WORDS + word] = words;
            }
        }
    }
    workgroupBarrier();
}

// A token's codes, loaded once for all heads of its group.
struct Codes {
    chunks: array<Chunk, CODE_CHUNKS>,
}

// Of a lane's tokens of a block, every LANES-th.
fn lane_codes(lane: u32, slot: u32, kv_head: u32) -> array<Codes, TOKENS> {
    var tokens = array<Codes, TOKENS>();
    let first = code_row(slot, kv_head, lane % LANES);
    for (var t = 0u; t < TOKENS; t++) {
        let token = first + t * LANES * CODE_WORDS;
        for (var i = 0u; i < CODE_CHUNKS; i++) {
            tokens[t].chunks[i] = codes[token / CHUNK_WORDS + i];
        }
    }
    return tokens;
}

// The integer logits of tokens of one block by a quad of the queries that were quantised. Exact: at most 127 * 128 * CHANNELS, less than
// 2^22. place: the block's in the workgroup.
fn quad_logits(place: u32, quad: u32, tokens: array<Codes, TOKENS>) -> array<vec4<f32>, TOKENS> {
    var all = tokens;
    var sums = array<vec4<i32>, TOKENS>();
    let first = (place * QUADS + quad) * WORDS;
    for (var i = 0u; i < CODE_CHUNKS; i++) {
        for (var w = 0u; w < CHUNK_WORDS; w++) {
            for (var plane = 0u; plane < PLANES; plane++) {
                let query = queries[first + (i * CHUNK_WORDS + w) * PLANES + plane];
                for (var t = 0u; t < TOKENS; t++) {
                    let four = (chunk_word(all[t].chunks[i], w) >> (BITS * plane)) & PLANE_MASK;
                    //!repeat QUAD h
                    sums[t][{h}] += dot4I8Packed(query[{h}], four);
                    //!end
                }
            }
        }
    }
    var logits = array<vec4<f32>, TOKENS>();
    for (var t = 0u; t < TOKENS; t++) {
        logits[t] = floats_of(sums[t]);
    }
    return logits;
}
