// Exact top-k of one row and KV head: items' scores are softmaxed per query head and averaged over the group,
// s_i = (1/G) sum_h softmax_h(x_h)[i], and the k largest s_i of the eligible range are written in ascending order of
// index, ties to the lowest index. A radix select over the order-preserving image of s, eight bits a pass. The slot says
// what the items are (blocks at level 1, tokens at level 2). Grid: (KV heads, rows).
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include lib/budget.wgsl
//!include lib/ordered_key.wgsl
//!include <reduce>
//!include <items>

const WORKGROUP: u32 = 256u;

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
var<workgroup> counts: array<vec2<u32>, WORKGROUP>;
var<workgroup> digit: u32;
var<workgroup> above: u32;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = lane_of(local, WORKGROUP);
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
    let first_score = (row * KV_HEADS + kv_head) * GROUP * score_rows.stride;
    var mean = array<vec2<f32>, GROUP>();
    for (var h = 0u; h < GROUP; h++) {
        let at = first_score + h * score_rows.stride;
        var largest = -3.0e38;
        for (var i = lane; i < items; i += WORKGROUP) {
            largest = max(largest, scores[at + i]);
        }
        largest = workgroup_max(lane, largest);
        var sum = 0.0;
        for (var i = lane; i < items; i += WORKGROUP) {
            sum += exp(scores[at + i] - largest);
        }
        mean[h] = vec2(largest, 1.0 / (f32(GROUP) * workgroup_sum(lane, sum)));
    }
    for (var i = range.x + lane; i < range.y; i += WORKGROUP) {
        var s = 0.0;
        for (var h = 0u; h < GROUP; h++) {
            s += exp(scores[first_score + h * score_rows.stride + i] - mean[h].x) * mean[h].y;
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
        atomicStore(&histogram[lane], 0u);
        workgroupBarrier();
        for (var i = range.x + lane; i < range.y; i += WORKGROUP) {
            let key = keys[keys_at + i];
            // The bits above this digit must equal the prefix; shifting by 32 is not defined.
            if bits == 24u || (key >> (bits + 8u)) == prefix {
                atomicAdd(&histogram[(key >> bits) & 255u], 1u);
            }
        }
        workgroupBarrier();
        // Suffix sums: how many keys have a larger digit.
        counts[lane] = vec2(atomicLoad(&histogram[lane]), 0u);
        workgroupBarrier();
        for (var reach = 1u; reach < WORKGROUP; reach = reach * 2u) {
            var more = 0u;
            if lane + reach < WORKGROUP {
                more = counts[lane + reach].x;
            }
            workgroupBarrier();
            counts[lane].x += more;
            workgroupBarrier();
        }
        let here = atomicLoad(&histogram[lane]);
        let larger = counts[lane].x - here;
        if larger < wanted && wanted <= larger + here {
            digit = lane;
            above = larger;
        }
        workgroupBarrier();
        prefix = (prefix << 8u) | digit;
        wanted -= above;
        workgroupBarrier();
    }

    // Compaction in index order: each lane owns consecutive items, and prefix sums give it its first place.
    let share = (range.y - range.x + WORKGROUP - 1u) / WORKGROUP;
    let begin = min(range.x + lane * share, range.y);
    let end = min(begin + share, range.y);
    var mine = vec2(0u);
    for (var i = begin; i < end; i++) {
        let key = keys[keys_at + i];
        mine += vec2(select(0u, 1u, key > prefix), select(0u, 1u, key == prefix));
    }
    counts[lane] = mine;
    workgroupBarrier();
    for (var reach = 1u; reach < WORKGROUP; reach = reach * 2u) {
        var less = vec2(0u);
        if lane >= reach {
            less = counts[lane - reach];
        }
        workgroupBarrier();
        counts[lane] += less;
        workgroupBarrier();
    }
    let before = counts[lane] - mine;
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
