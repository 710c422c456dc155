// Decode attention of one row over one split of its tokens where values are the first VALUE_DIM numbers of the keys and all
// heads share them: absorbed latent attention. Rows are long and contexts often short, so tiles are small, to make
// many workgroups; a quad of heads reads the tile's rows from memory once and a second time, as values, from the cache.
//
// Logits: SLICES lanes share a token, each takes every SLICES-th vec4 (of eight f16) of its row. Values: a lane owns one vec4
// of the output, and the lanes of a value share the tile's tokens among GROUPS.
// Grid: (splits, KV heads * QUADS, rows).
//!include lib/quad_eights.wgsl

// Tokens of a tile, which src/attention/shape.rs plans splits by.
const TILE: u32 = 16u;
const SLICES: u32 = 8u;
const WORKGROUP: u32 = TILE * SLICES;
const PARTS: u32 = (ROW_VECS + SLICES - 1u) / SLICES;
// The power of two that a value's vec4 fit into.
const VALUE_LANES: u32 = select(select(select(select(8u, 16u, VALUE_VECS > 8u), 32u, VALUE_VECS > 16u), 64u, VALUE_VECS > 32u), 128u, VALUE_VECS > 64u);
const GROUPS: u32 = WORKGROUP / VALUE_LANES;
const GROUP_TOKENS: u32 = (TILE + GROUPS - 1u) / GROUPS;
// Rows of workgroup memory have gaps, so that neighbouring lanes use different banks.
const QUERY_ROW: u32 = ROW_VECS + 1u;
const SLICE_ROW: u32 = TILE + 1u;
const OUTPUT_LANES: u32 = WORKGROUP / 2u;

// Queries: [dimension within its vec4][vec4]; then accumulators of half the lanes: [dimension within its vec4][lane].
var<workgroup> shared_vecs: array<vec4<f32>, 8u * max(QUERY_ROW, OUTPUT_LANES)>;
// Partial logits: [slice][token].
var<workgroup> partial: array<vec4<f32>, SLICES * SLICE_ROW>;
// Where the tile's rows begin, in vec4; NOWHERE for tokens past the end or in another segment.
var<workgroup> key_rows: array<u32, TILE>;
// Logits, then probabilities, of the tile's tokens; at last their sums.
var<workgroup> weights: array<vec4<f32>, TILE>;

fn query8(vec: u32) -> Eight {
    return Eight(
        //!repeat 8 i
        shared_vecs[{i*QUERY_ROW+}vec],
        //!end
    );
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = lane_of(local, WORKGROUP);
    let split = group.x;
    let kv_head = group.y / QUADS;
    let quad = group.y % QUADS;
    let row = row_of(group.z);
    let slice = lane % SLICES;
    let token = lane / SLICES;
    let vec = min(lane % VALUE_LANES, VALUE_VECS - 1u);
    let first_token = lane / VALUE_LANES * GROUP_TOKENS;

    let q_at = row * ROW_WIDTH + kv_head * GROUP * HEAD_DIM;
    for (var i = lane; i < HEAD_DIM; i += WORKGROUP) {
        shared_vecs[i % 8u * QUERY_ROW + i / 8u] = query(q_at + i, quad, 0u);
    }
    let total = token_count(row, kv_head);
    let split_tokens = split_tiles((total + TILE - 1u) / TILE) * TILE;
    let begin = min(split * split_tokens, total);
    let end = min(begin + split_tokens, total);
    var o = Eight();
    var m = vec4(NOTHING);
    // Of the tokens that this lane weighs: the first TILE lanes have one each.
    var l = vec4(0.0);

    for (var tile = begin; tile < end; tile += TILE) {
        let own = key_row(row, kv_head, tile + token, end);
        var eights: array<vec4<u32>, PARTS>;
        for (var i = 0u; i < PARTS; i++) {
            eights[i] = load8(own, min(slice + i * SLICES, ROW_VECS - 1u));
        }
        if slice == 0u {
            key_rows[token] = own;
        }
        // The queries are there, and what the last tile left is read.
        workgroupBarrier();
        var products = vec4(0.0);
        for (var i = 0u; i < PARTS; i++) {
            let at = slice + i * SLICES;
            let product = dot8(query8(min(at, ROW_VECS - 1u)), eights[i]);
            products += select(vec4(0.0), product, at < ROW_VECS);
        }
        partial[slice * SLICE_ROW + token] = products;
        workgroupBarrier();
        var logit = vec4(0.0);
        let counts = lane < TILE && key_rows[lane % TILE] != NOWHERE;
        if lane < TILE {
            for (var i = 0u; i < SLICES; i++) {
                logit += partial[i * SLICE_ROW + lane];
            }
            weights[lane] = select(vec4(NOTHING), logit, counts);
        }
        workgroupBarrier();
        var next = m;
        for (var i = 0u; i < TILE; i++) {
            next = max(next, weights[i]);
        }
        let rescale = exp(m - next);
        m = next;
        workgroupBarrier();
        if lane < TILE {
            let weight = select(vec4(0.0), exp(logit - m), counts);
            weights[lane] = weight;
            l = l * rescale + weight;
        }
        workgroupBarrier();
        o = scale8(o, rescale);
        for (var i = 0u; i < GROUP_TOKENS; i++) {
            let at = first_token + i;
            if GROUP_TOKENS * GROUPS == TILE || at < TILE {
                o = add8(o, weights[at], load8(key_rows[at], vec));
            }
        }
        // The next tile overwrites what this one reads.
        workgroupBarrier();
    }

    // Groups of tokens are summed by halves, so that the accumulators of half the lanes are all that is kept at a time.
    for (var half = GROUPS / 2u; half > 0u; half = half / 2u) {
        let lanes = half * VALUE_LANES;
        workgroupBarrier();
        if lane >= lanes && lane < 2u * lanes {
            store8(lane - lanes, o);
        }
        workgroupBarrier();
        if lane < lanes {
            o = plus8(o, lane);
        }
    }
    if lane < TILE {
        weights[lane] = l;
    }
    workgroupBarrier();
    let splits = step[H_SPLITS];
    let heads = min(4u, GROUP - quad * 4u);
    let between = segment.count * splits;
    let first = ((row * Q_HEADS + kv_head * GROUP + quad * 4u) * segment.count + segment.index) * splits + split;
    if lane == 0u {
        var sum = vec4(0.0);
        for (var i = 0u; i < TILE; i++) {
            sum += weights[i];
        }
        for (var h = 0u; h < heads; h++) {
            partial_ml[first + h * between] = vec2(m[h], sum[h]);
        }
    }
    if lane < VALUE_VECS {
        for (var h = 0u; h < heads; h++) {
            let at = (first + h * between) * VALUE_DIM + lane * 8u;
            //!repeat 8 i
            partial_o[at{+i}] = o.v{i}[h];
            //!end
        }
    }
}

fn store8(lane: u32, o: Eight) {
    //!repeat 8 i
    shared_vecs[{i*OUTPUT_LANES+}lane] = o.v{i};
    //!end
}

fn plus8(o: Eight, lane: u32) -> Eight {
    return Eight(
        //!repeat 8 i
        o.v{i} + shared_vecs[{i*OUTPUT_LANES+}lane],
        //!end
    );
}
