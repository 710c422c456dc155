// The choice of top_k.wgsl where lanes tell each other what they have: a workgroup waits seven times for its lanes. A lane ranks
// AT_ONCE items at a time, LANES apart. Keys stay in workgroup memory, but for those of items beyond the first HELD. Loops are not
// written out: a step reads so many weights between two choices that the kernel comes from memory each time, and each of its
// instructions costs more to fetch than to run.
// Grid: (KV heads, rows).
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include lib/budget.wgsl
//!include lib/ordered_key.wgsl
//!include <items>
//!include <rank>

// Subgroups have SUBGROUP lanes, consecutive ones of the workgroup, and are SUBGROUP at most.
const SUBGROUPS: u32 = LANES / SUBGROUP;
// Digits of a histogram that a lane looks at.
const DIGITS: u32 = 256u / SUBGROUP;

struct Scores {
    // Scores from one query head to the next, and keys from one KV head to the next.
    stride: u32,
}

@group(0) @binding(1) var<uniform> score_rows: Scores;
// [row][query head][stride]
@group(0) @binding(2) var<storage, read> scores: array<f32>;
// [row][KV head][stride]: those that are not held
@group(0) @binding(3) var<storage, read_write> keys: array<u32>;
// [row][KV head][items_kept()]
@group(0) @binding(4) var<storage, read_write> chosen: array<u32>;

// One a pass, each used once.
var<workgroup> histograms: array<atomic<u32>, 1024>;
var<workgroup> held: array<u32, HELD>;
// Of each subgroup's items, how many are larger than the least key that is chosen, and how many are equal to it.
var<workgroup> counts: array<vec2<u32>, SUBGROUPS>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    // A subgroup's lanes stay in order, so that sums over those before a lane are its own.
    let subgroup = lane_of(local / SUBGROUP, SUBGROUPS);
    let member = local % SUBGROUP;
    let lane = subgroup * SUBGROUP + member;
    let kv_head = group.x;
    let row = group.y;
    let items = item_count(row);
    let range = eligible_items(row);
    let count = range.y - range.x;
    let k = items_chosen(row);
    let out_at = (row * KV_HEADS + kv_head) * items_kept();
    let keys_at = (row * KV_HEADS + kv_head) * score_rows.stride;
    // Where everything is kept nothing was scored.
    if k == count {
        for (var i = lane; i < k; i += LANES) {
            chosen[out_at + i] = item_output(row, kv_head, range.x + i);
        }
        return;
    }
    if k == 0u {
        return;
    }

    for (var i = lane; i < 1024u; i += LANES) {
        atomicStore(&histograms[i], 0u);
    }
    sum_exponentials(lane, row, kv_head, items);
    workgroupBarrier();

    // s_i, as ordered keys. Every lane ranks, past the last item too.
    for (var first = 0u; first < count; first += LANES * AT_ONCE) {
        let i = first + lane;
        let ranks = rank_items(member, row, kv_head, range.x + i, items);
        //!repeat AT_ONCE j
        if i{+j*LANES} < count {
            let key = item_key(row, kv_head, range.x + i{+j*LANES}, ordered_key(ranks[{j}]));
            if i{+j*LANES} < HELD {
                held[i{+j*LANES}] = key;
            } else {
                keys[keys_at + i{+j*LANES}] = key;
            }
        }
        //!end
    }

    // The k-th largest key, eight bits at a time from the top; wanted counts down to its rank among its equals. A stride is less than
    // 2^31, which compilers do not know: so they leave the four passes a loop.
    var prefix = 0u;
    var wanted = k;
    for (var p = 0u; p < 4u + (score_rows.stride >> 31u); p++) {
        let below = 24u - 8u * p;
        if wanted > 0u {
            // A lane's are those that it ranked.
            for (var i = lane; i < count; i += LANES * AT_ONCE) {
                //!repeat AT_ONCE j
                let key{j} = key_of(keys_at, min(i{+j*LANES}, count - 1u));
                //!end
                //!repeat AT_ONCE j
                if i{+j*LANES} < count && begins_with(key{j}, p, prefix) {
                    atomicAdd(&histograms[256u * p + place_of((key{j} >> below) & 255u)], 1u);
                }
                //!end
            }
        }
        workgroupBarrier();
        if wanted > 0u {
            let digit = find_digit(256u * p, member, wanted);
            prefix = (prefix << 8u) | digit.x;
            wanted -= digit.y;
            // All keys that begin so are wanted: what follows these bits does not matter.
            if wanted == digit.z && prefix > 0u {
                prefix = (prefix << below) - 1u;
                wanted = 0u;
            }
        }
    }

    // In index order: a subgroup has consecutive items, of which others ranked some.
    storageBarrier();
    let share = (count + LANES - 1u) / LANES * SUBGROUP;
    let begin = subgroup * share;
    let end = min(begin + share, count);
    var own = vec2(0u);
    for (var first = begin; first < end; first += SUBGROUP) {
        let found = compare(keys_at, first + member, end, prefix);
        own += countOneBits(found);
    }
    if member == 0u {
        counts[subgroup] = own;
    }
    workgroupBarrier();
    var before = subgroupAdd(select(vec2(0u), counts[member % SUBGROUPS], member < subgroup));
    let lane_bit = 1u << member;
    for (var first = begin; first < end; first += SUBGROUP) {
        let found = compare(keys_at, first + member, end, prefix);
        let all = before + countOneBits(found & vec2(lane_bit - 1u));
        let is_one = (found & vec2(lane_bit)) != vec2(0u);
        if is_one.x || (is_one.y && all.y < wanted) {
            chosen[out_at + all.x + min(all.y, wanted)] = item_output(row, kv_head, range.x + first + member);
        }
        before += countOneBits(found);
    }
}

// Of a subgroup's lanes, a bit each: whose item has a larger key than this, and whose has this.
fn compare(keys_at: u32, i: u32, end: u32, prefix: u32) -> vec2<u32> {
    let key = key_of(keys_at, min(i, end - 1u));
    return vec2(subgroupBallot(i < end && key > prefix).x, subgroupBallot(i < end && key == prefix).x);
}

fn key_of(keys_at: u32, i: u32) -> u32 {
    if i < HELD {
        return held[i];
    }
    return keys[keys_at + i];
}

// Whether the digits of a key before digit p are these.
fn begins_with(key: u32, p: u32, prefix: u32) -> bool {
    // Shifting by 32 is not defined.
    return p == 0u || (key >> (32u - 8u * max(p, 1u))) == prefix;
}

// Where a digit's count is, so that lanes that look at consecutive digits read from different banks.
fn place_of(digit: u32) -> u32 {
    return digit % DIGITS * SUBGROUP + digit / DIGITS;
}

// The digit that holds the wanted-th largest key of the histogram, how many keys have a larger one, and how many have it. Every
// subgroup finds it for itself.
fn find_digit(histogram: u32, member: u32, wanted: u32) -> vec3<u32> {
    // From the top: the first lane has the largest digits.
    let top = SUBGROUP - 1u - member;
    var own = 0u;
    for (var i = 0u; i < DIGITS; i++) {
        own += atomicLoad(&histograms[histogram + i * SUBGROUP + top]);
    }
    var larger = subgroupExclusiveAdd(own);
    var digit = vec3(0u);
    if larger < wanted && wanted <= larger + own {
        for (var i = DIGITS; i > 0u; i--) {
            let count = atomicLoad(&histograms[histogram + (i - 1u) * SUBGROUP + top]);
            if larger < wanted {
                digit = vec3(top * DIGITS + i - 1u, larger, count);
            }
            larger += count;
        }
    }
    return subgroupAdd(digit);
}
