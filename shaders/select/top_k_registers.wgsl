// As top_k.wgsl, for lanes that are real: each keeps its items' keys in registers, and the k-th largest key is found by halving
// the range that it lies in, a count of all keys a time. What is chosen is the same.
// Grid: (KV heads, rows).
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include lib/budget.wgsl
//!include lib/ordered_key.wgsl
//!include <items>
//!include <rank>

const SIXTEENS: u32 = LANES / 16u;
// vec4 of keys that a lane keeps; items beyond those of all lanes are counted in memory.
const QUADS_KEPT: u32 = 16u;

struct Scores {
    // Scores from one query head to the next, and keys from one KV head to the next.
    stride: u32,
}

@group(0) @binding(1) var<uniform> score_rows: Scores;
// [row][query head][stride]
@group(0) @binding(2) var<storage, read> scores: array<f32>;
// [row][KV head][stride]: scratch
@group(0) @binding(3) var<storage, read_write> keys: array<u32>;
// [row][KV head][items_kept()]
@group(0) @binding(4) var<storage, read_write> chosen: array<u32>;

// Two rows, used in turn, so that a count needs one barrier.
var<workgroup> parts: array<u32, 2u * LANES>;
var<workgroup> counts: array<vec2<u32>, LANES>;
var<workgroup> coarse_counts: array<vec2<u32>, 16>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = lane_of(local, LANES);
    let kv_head = group.x;
    let row = group.y;
    let items = item_count(row);
    let range = eligible_items(row);
    let k = items_chosen(row);
    let out_at = (row * KV_HEADS + kv_head) * items_kept();
    let keys_at = (row * KV_HEADS + kv_head) * score_rows.stride;
    // Where everything is kept nothing was scored.
    if k == range.y - range.x {
        for (var i = lane; i < k; i += LANES) {
            chosen[out_at + i] = item_output(row, kv_head, range.x + i);
        }
        return;
    }
    if k == 0u {
        return;
    }

    // s_i, as ordered keys.
    rank_items(lane, row, kv_head, items, range);
    storageBarrier();
    workgroupBarrier();

    // Each lane owns consecutive items, whole quads of them; what is no item has the least key.
    let quads = ((range.y - range.x + LANES - 1u) / LANES + 3u) / 4u;
    let begin = min(range.x + lane * quads * 4u, range.y);
    let end = min(begin + quads * 4u, range.y);
    let are_kept = quads <= QUADS_KEPT;
    //!repeat 16 i
    var own{i} = vec4(0u);
    if are_kept && {i} < quads {
        own{i} = quad_of(keys_at, begin + {4*i}, end);
    }
    //!end

    // The k-th largest key is at least low and below high. Once as many keys as are wanted reach low there is no more to find.
    var low = 0u;
    var reach_low = range.y - range.x;
    var high = 0xffffffffu;
    for (var halving = 0u; halving < 32u; halving++) {
        let is_open = high - low > 1u && reach_low != k;
        let middle = low + (high - low) / 2u;
        var mine = 0u;
        if is_open {
            if are_kept {
                var reached = vec4(0u);
                //!repeat 16 i
                if {i} < quads {
                    reached += select(vec4(0u), vec4(1u), own{i} >= vec4(middle));
                }
                //!end
                mine = reached.x + reached.y + reached.z + reached.w;
            } else {
                for (var i = range.x + lane; i < range.y; i += LANES) {
                    mine += select(0u, 1u, keys[keys_at + i] >= middle);
                }
            }
        }
        let reach_middle = workgroup_count(lane, mine, halving);
        if is_open {
            if reach_middle >= k {
                low = middle;
                reach_low = reach_middle;
            } else {
                high = middle;
            }
        }
    }

    // Those that reach low, but for the last of its equals where they are too many.
    var above = vec2(0u);
    var equal = vec2(0u);
    var mine = vec2(0u);
    if are_kept {
        //!repeat 16 i
        if {i} < quads {
            above |= bits_at(own{i} > vec4(low), {4*i});
            equal |= bits_at(own{i} == vec4(low), {4*i});
        }
        //!end
        // Of a lane that owns less than its quads the rest is no item.
        let real = vec2(low_bits(end - begin), low_bits(max(end - begin, 32u) - 32u));
        above &= real;
        equal &= real;
        mine = vec2(ones(above), ones(equal));
    } else {
        for (var i = begin; i < end; i++) {
            let key = keys[keys_at + i];
            mine += vec2(select(0u, 1u, key > low), select(0u, 1u, key == low));
        }
    }
    counts[lane] = mine;
    workgroupBarrier();
    if lane < SIXTEENS {
        var sum = vec2(0u);
        for (var i = 0u; i < 16u; i++) {
            sum += counts[lane * 16u + i];
        }
        coarse_counts[lane] = sum;
    }
    workgroupBarrier();
    var before = vec2(0u);
    var all_above = 0u;
    for (var i = 0u; i < SIXTEENS; i++) {
        before += select(vec2(0u), coarse_counts[i], i < lane / 16u);
        all_above += coarse_counts[i].x;
    }
    for (var i = lane / 16u * 16u; i < lane; i++) {
        before += counts[i];
    }
    let wanted = k - all_above;
    var equals = before.y;
    var place = before.x + min(equals, wanted);
    if are_kept {
        var left = wanted - min(equals, wanted);
        for (; left > 0u && any(equal != vec2(0u)); left--) {
            let first = first_one(equal);
            above |= first;
            equal ^= first;
        }
        for (; any(above != vec2(0u)); place++) {
            let first = first_one(above);
            let i = select(32u + firstTrailingBit(first.y), firstTrailingBit(first.x), first.x != 0u);
            chosen[out_at + place] = item_output(row, kv_head, begin + i);
            above ^= first;
        }
        return;
    }
    for (var i = begin; i < end; i++) {
        let key = keys[keys_at + i];
        let tie = key == low;
        if key > low || (tie && equals < wanted) {
            chosen[out_at + place] = item_output(row, kv_head, i);
            place += 1u;
        }
        equals += select(0u, 1u, tie);
    }
}

fn quad_of(keys_at: u32, first: u32, end: u32) -> vec4<u32> {
    return vec4(
        //!repeat 4 i
        key_of(keys_at, first{+i}, end),
        //!end
    );
}

fn key_of(keys_at: u32, item: u32, end: u32) -> u32 {
    if item >= end {
        return 0u;
    }
    return keys[keys_at + item];
}

// The sum of all lanes' counts; every lane must call.
fn workgroup_count(lane: u32, count: u32, turn: u32) -> u32 {
    let size = subgroupAdd(1u);
    let part = subgroupAdd(count);
    let at = turn % 2u * LANES;
    if lane % size == 0u {
        parts[at + lane / size] = part;
    }
    workgroupBarrier();
    var total = 0u;
    for (var i = 0u; i * size < LANES; i++) {
        total += parts[at + i];
    }
    return total;
}

// Four flags as bits of two words, from bit `at` on: a multiple of four.
fn bits_at(flags: vec4<bool>, at: u32) -> vec2<u32> {
    let bits = dot(select(vec4(0u), vec4(1u, 2u, 4u, 8u), flags), vec4(1u)) << (at % 32u);
    return select(vec2(0u, bits), vec2(bits, 0u), at < 32u);
}

// A word whose lowest bits are set, as many as that.
fn low_bits(count: u32) -> u32 {
    return select((1u << count) - 1u, 0xffffffffu, count >= 32u);
}

fn ones(bits: vec2<u32>) -> u32 {
    return countOneBits(bits.x) + countOneBits(bits.y);
}

// The lowest bit that is set, alone.
fn first_one(bits: vec2<u32>) -> vec2<u32> {
    let low = bits.x & (0u - bits.x);
    let high = bits.y & (0u - bits.y);
    return vec2(low, select(0u, high, bits.x == 0u));
}
