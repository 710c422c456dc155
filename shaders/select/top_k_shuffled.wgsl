// The choice of top_k.wgsl where lanes tell each other what they have: a workgroup waits seven times for its lanes. A lane has
// AT_ONCE items in hand, LANES apart; their keys stay in its registers, and only where items are more than LANES * AT_ONCE go
// through memory.
// Grid: (KV heads, rows).
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include lib/budget.wgsl
//!include lib/ordered_key.wgsl
//!include <items>
//!include <rank>

// Subgroups have SUBGROUP lanes, consecutive ones of the workgroup, and are SUBGROUP at most; AT_ONCE are at most as many as they.
const SUBGROUPS: u32 = LANES / SUBGROUP;
const CHUNK: u32 = LANES * AT_ONCE;
// Digits of a histogram that a lane looks at.
const DIGITS: u32 = 256u / SUBGROUP;

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

// One a pass, each used once.
var<workgroup> histograms: array<atomic<u32>, 1024>;
// Of a chunk's items, by place and subgroup, and of the next one's: how many are larger than the least key that is chosen, and in
// the upper half of the word how many are equal to it; then what is before them in their place.
var<workgroup> counts: array<u32, 2u * AT_ONCE * SUBGROUPS>;
// Of a place, likewise.
var<workgroup> sums: array<u32, 2u * AT_ONCE>;

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
    let one_chunk = range.y - range.x <= CHUNK;
    let last = range.y - 1u;

    for (var i = lane; i < 1024u; i += LANES) {
        atomicStore(&histograms[i], 0u);
    }
    sum_exponentials(lane, row, kv_head, items);
    workgroupBarrier();

    // s_i, as ordered keys. Beyond the range there are zeros: no key is less, and those of the range come first.
    //!repeat AT_ONCE j
    var key{j} = 0u;
    //!end
    for (var first = range.x; first < range.y; first += CHUNK) {
        let i = first + lane;
        let ranks = rank_items(member, row, kv_head, i, items);
        //!repeat AT_ONCE j
        key{j} = 0u;
        if i{+j*LANES} < range.y {
            key{j} = item_key(row, kv_head, i{+j*LANES}, ordered_key(ranks[{j}]));
            if !one_chunk {
                keys[keys_at + i{+j*LANES}] = key{j};
            }
        }
        //!end
    }

    // The k-th largest key, eight bits at a time from the top; wanted counts down to its rank among its equals.
    var prefix = 0u;
    var wanted = k;
    //!repeat 4 p
    if wanted > 0u {
        for (var first = range.x; first < range.y; first += CHUNK) {
            let i = first + lane;
            if !one_chunk {
                //!repeat AT_ONCE j
                key{j} = keys[keys_at + min(i{+j*LANES}, last)];
                //!end
            }
            //!repeat AT_ONCE j
            if i{+j*LANES} < range.y && begins_with(key{j}, {p}u, prefix) {
                atomicAdd(&histograms[{256*p}u + place_of((key{j} >> (24u - {8*p}u)) & 255u)], 1u);
            }
            //!end
        }
    }
    workgroupBarrier();
    if wanted > 0u {
        let digit = find_digit({256*p}u, member, wanted);
        prefix = (prefix << 8u) | digit.x;
        wanted -= digit.y;
        // All keys that begin so are wanted: what follows these bits does not matter.
        if wanted == digit.z && prefix > 0u {
            prefix = (prefix << (24u - {8*p}u)) - 1u;
            wanted = 0u;
        }
    }
    //!end

    // Compaction in index order. So many larger and equal ones are in earlier chunks.
    var earlier = vec2(0u);
    var turn = 0u;
    let earlier_lanes = (1u << member) - 1u;
    for (var first = range.x; first < range.y; first += CHUNK) {
        let i = first + lane;
        if !one_chunk {
            //!repeat AT_ONCE j
            key{j} = select(0u, keys[keys_at + min(i{+j*LANES}, last)], i{+j*LANES} < range.y);
            //!end
        }
        //!repeat AT_ONCE j
        let is_larger{j} = key{j} > prefix;
        let is_equal{j} = key{j} == prefix;
        let larger{j} = subgroupBallot(is_larger{j}).x;
        let equal{j} = subgroupBallot(is_equal{j}).x;
        let before{j} = countOneBits(larger{j} & earlier_lanes) | (countOneBits(equal{j} & earlier_lanes) << 16u);
        // On its way while lanes count.
        let output{j} = item_output(row, kv_head, min(i{+j*LANES}, last));
        //!end
        if member == 0u {
            //!repeat AT_ONCE j
            counts[(turn * AT_ONCE{+j}) * SUBGROUPS + subgroup] = countOneBits(larger{j}) | (countOneBits(equal{j}) << 16u);
            //!end
        }
        workgroupBarrier();
        // A subgroup adds up a place.
        if subgroup < AT_ONCE {
            let at = (turn * AT_ONCE + subgroup) * SUBGROUPS + member % SUBGROUPS;
            let own = select(0u, counts[at], member < SUBGROUPS);
            let before = subgroupExclusiveAdd(own);
            if member < SUBGROUPS {
                counts[at] = before;
            }
            if member == SUBGROUPS - 1u {
                sums[turn * AT_ONCE + subgroup] = before + own;
            }
        }
        workgroupBarrier();
        //!repeat AT_ONCE j
        {
            let all = earlier + halves(counts[(turn * AT_ONCE{+j}) * SUBGROUPS + subgroup] + before{j});
            if is_larger{j} || (is_equal{j} && all.y < wanted) {
                chosen[out_at + all.x + min(all.y, wanted)] = output{j};
            }
            earlier += halves(sums[turn * AT_ONCE{+j}]);
        }
        //!end
        turn = 1u - turn;
    }
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

fn halves(word: u32) -> vec2<u32> {
    return vec2(word & 0xffffu, word >> 16u);
}
