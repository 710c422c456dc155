// Exact top-k of one row and KV head: items' scores are softmaxed per query head and averaged over the group,
// s_i = (1/G) sum_h softmax_h(x_h)[i], and the k largest s_i of the eligible range are written in ascending order of
// index, ties to the lowest index. A radix select over the order-preserving image of s, eight bits a pass. The slot says
// what the items are (blocks at level 1, tokens at level 2). Sums over the lanes go by sums of sixteen:
// fewer barriers than a tree, of which this kernel would need a hundred. Grid: (KV heads, rows).
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include lib/budget.wgsl
//!include lib/ordered_key.wgsl
//!include <items>

// LANES is 256 on a GPU and fewer where lanes are emulated: a multiple of 16.
const SIXTEENS: u32 = LANES / 16u;

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

var<workgroup> histogram: array<atomic<u32>, 256>;
var<workgroup> coarse: array<u32, 16>;
var<workgroup> counts: array<vec2<u32>, LANES>;
var<workgroup> coarse_counts: array<vec2<u32>, 16>;
var<workgroup> values: array<vec4<f32>, LANES>;
var<workgroup> coarse_values: array<vec4<f32>, 16>;
// The digit that holds the k-th largest key, and how many keys have a larger one.
var<workgroup> found: vec2<u32>;

const QUADS: u32 = (GROUP + 3u) / 4u;

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
    if k == 0u {
        return;
    }

    // s_i, as ordered keys.
    // Four query heads are the components of a vec4; a group's last quad may repeat its last head, which counts once.
    let first_score = (row * KV_HEADS + kv_head) * GROUP * score_rows.stride;
    var largest = array<vec4<f32>, QUADS>();
    var factor = array<vec4<f32>, QUADS>();
    for (var quad = 0u; quad < QUADS; quad++) {
        var most = vec4(-3.0e38);
        for (var i = lane; i < items; i += LANES) {
            most = max(most, four_scores(first_score, quad, i));
        }
        most = workgroup_max4(lane, most);
        var sum = vec4(0.0);
        for (var i = lane; i < items; i += LANES) {
            sum += exp(four_scores(first_score, quad, i) - most);
        }
        sum = workgroup_sum4(lane, sum);
        let counts_once = vec4(quad * 4u) + vec4(0u, 1u, 2u, 3u) < vec4(GROUP);
        largest[quad] = most;
        factor[quad] = select(vec4(0.0), 1.0 / (f32(GROUP) * sum), counts_once);
    }
    for (var i = range.x + lane; i < range.y; i += LANES) {
        var s = 0.0;
        for (var quad = 0u; quad < QUADS; quad++) {
            s += dot(exp(four_scores(first_score, quad, i) - largest[quad]), factor[quad]);
        }
        keys[keys_at + i] = ordered_key(s);
    }
    storageBarrier();
    workgroupBarrier();

    // The k-th largest key, eight bits at a time from the top; wanted counts down to its rank among its equals.
    var prefix = 0u;
    var wanted = k;
    for (var shift = 24i; shift >= 0i; shift -= 8i) {
        let bits = u32(shift);
        for (var i = lane; i < 256u; i += LANES) {
            atomicStore(&histogram[i], 0u);
        }
        workgroupBarrier();
        for (var i = range.x + lane; i < range.y; i += LANES) {
            let key = keys[keys_at + i];
            // The bits above this digit must equal the prefix; shifting by 32 is not defined.
            if bits == 24u || (key >> (bits + 8u)) == prefix {
                atomicAdd(&histogram[(key >> bits) & 255u], 1u);
            }
        }
        workgroupBarrier();
        if lane < 16u {
            var sum = 0u;
            for (var i = 0u; i < 16u; i++) {
                sum += atomicLoad(&histogram[lane * 16u + i]);
            }
            coarse[lane] = sum;
        }
        workgroupBarrier();
        if lane == 0u {
            // From the top: the sixteen that holds the k-th, then the digit.
            var larger = 0u;
            var at = 15u;
            while at > 0u && larger + coarse[at] < wanted {
                larger += coarse[at];
                at -= 1u;
            }
            at = at * 16u + 15u;
            while (at & 15u) > 0u && larger + atomicLoad(&histogram[at]) < wanted {
                larger += atomicLoad(&histogram[at]);
                at -= 1u;
            }
            found = vec2(at, larger);
        }
        workgroupBarrier();
        prefix = (prefix << 8u) | found.x;
        wanted -= found.y;
    }

    // Compaction in index order: each lane owns consecutive items, and prefix sums give it its first place.
    let share = (range.y - range.x + LANES - 1u) / LANES;
    let begin = min(range.x + lane * share, range.y);
    let end = min(begin + share, range.y);
    var mine = vec2(0u);
    for (var i = begin; i < end; i++) {
        let key = keys[keys_at + i];
        mine += vec2(select(0u, 1u, key > prefix), select(0u, 1u, key == prefix));
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
    for (var i = 0u; i < lane / 16u; i++) {
        before += coarse_counts[i];
    }
    for (var i = lane / 16u * 16u; i < lane; i++) {
        before += counts[i];
    }
    var equals = before.y;
    var place = before.x + min(equals, wanted);
    for (var i = begin; i < end; i++) {
        let key = keys[keys_at + i];
        let tie = key == prefix;
        if key > prefix || (tie && equals < wanted) {
            chosen[out_at + place] = item_output(row, kv_head, i);
            place += 1u;
        }
        equals += select(0u, 1u, tie);
    }
}

fn four_scores(first: u32, quad: u32, item: u32) -> vec4<f32> {
    let h = quad * 4u;
    return vec4(
        scores[first + min(h, GROUP - 1u) * score_rows.stride + item],
        scores[first + min(h + 1u, GROUP - 1u) * score_rows.stride + item],
        scores[first + min(h + 2u, GROUP - 1u) * score_rows.stride + item],
        scores[first + min(h + 3u, GROUP - 1u) * score_rows.stride + item],
    );
}

fn workgroup_max4(lane: u32, value: vec4<f32>) -> vec4<f32> {
    values[lane] = value;
    workgroupBarrier();
    if lane < SIXTEENS {
        var most = values[lane * 16u];
        for (var i = 1u; i < 16u; i++) {
            most = max(most, values[lane * 16u + i]);
        }
        coarse_values[lane] = most;
    }
    workgroupBarrier();
    var most = coarse_values[0];
    for (var i = 1u; i < SIXTEENS; i++) {
        most = max(most, coarse_values[i]);
    }
    return most;
}

fn workgroup_sum4(lane: u32, value: vec4<f32>) -> vec4<f32> {
    values[lane] = value;
    workgroupBarrier();
    if lane < SIXTEENS {
        var sum = values[lane * 16u];
        for (var i = 1u; i < 16u; i++) {
            sum += values[lane * 16u + i];
        }
        coarse_values[lane] = sum;
    }
    workgroupBarrier();
    var sum = coarse_values[0];
    for (var i = 1u; i < SIXTEENS; i++) {
        sum += coarse_values[i];
    }
    return sum;
}
