// Exact top-k of one row and KV head: the k items of the eligible range with the largest s_i are written in ascending
// order of index, ties to the lowest index. A radix select over the order-preserving image of s, eight bits a pass. One
// slot says what the items are (blocks at level 1, tokens at level 2), one how their scores make s.
// Grid: (KV heads, rows).
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include lib/budget.wgsl
//!include lib/ordered_key.wgsl
//!include lib/scores.wgsl
//!include lib/lanes_sixteens.wgsl
//!include <items>
//!include <rank>

// LANES are many on a GPU and few where lanes are emulated. AT_ONCE loads are begun before any is waited for. The search LEAVES
// its loop once it knows enough, but for FXC: that takes barriers in a loop only if all that ends it is plainly uniform, which
// what lanes told each other is not to it.

// [row][KV head][stride]: scratch, with the ranks in it that head_ranks.wgsl or token_score.wgsl made
@group(0) @binding(3) var<storage, read_write> keys: array<u32>;
// [row][KV head][items_kept()]
@group(0) @binding(4) var<storage, read_write> chosen: array<u32>;

var<workgroup> histogram: array<atomic<u32>, 256>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = lane_here(local);
    let kv_head = group.x;
    let row = group.y;
    let items = item_count(row);
    let range = eligible_items(row);
    let k = items_chosen(row);
    let out_at = (row * KV_HEADS + kv_head) * items_kept();
    let keys_at = (row * KV_HEADS + kv_head) * score_rows.stride;
    // Where everything is kept nothing was scored, unless what ranks the tokens of all blocks is wanted.
    let keeps_all = k == range.y - range.x;
    if keeps_all {
        for (var i = lane; i < k; i += LANES) {
            chosen[out_at + i] = item_output(row, kv_head, range.x + i);
        }
    }
    if k == 0u || (keeps_all && !KEEPS_TERMS) {
        return;
    }
    let terms = rank_terms(lane, row, kv_head, items);
    keep_terms(lane, row, kv_head, terms);
    if keeps_all {
        return;
    }

    // s_i, as ordered keys.
    rank_items(terms, lane, row, kv_head, items, range);
    // Nothing but keys is read by other lanes before the next barrier.
    storageBarrier();

    // The k-th largest key, eight bits at a time from the top; wanted counts down to its rank among its equals.
    var prefix = 0u;
    var wanted = k;
    for (var shift = 24i; shift >= 0i; shift -= 8i) {
        let bits = u32(shift);
        for (var i = lane; i < 256u; i += LANES) {
            atomicStore(&histogram[i], 0u);
        }
        workgroupBarrier();
        let searches = LEAVES || wanted > 0u;
        for (var first = range.x; first < range.y; first += LANES * AT_ONCE) {
            if searches {
                let i = first + lane;
                //!repeat AT_ONCE j
                let key{j} = keys[keys_at + min(i{+j*LANES}, range.y - 1u)];
                //!end
                //!repeat AT_ONCE j
                // The bits above this digit must equal the prefix; shifting by 32 is not defined.
                if i{+j*LANES} < range.y && (bits == 24u || (key{j} >> (bits + 8u)) == prefix) {
                    atomicAdd(&histogram[(key{j} >> bits) & 255u], 1u);
                }
                //!end
            }
        }
        workgroupBarrier();
        let digit = find_digit(lane, wanted);
        if searches {
            prefix = (prefix << 8u) | digit.x;
            wanted -= digit.y;
            // All keys that begin so are wanted: what follows these bits does not matter.
            if wanted == digit.z && prefix > 0u {
                prefix = (prefix << bits) - 1u;
                wanted = 0u;
                if LEAVES {
                    break;
                }
            }
        }
    }

    // Compaction in index order: each lane owns consecutive items, and prefix sums give it its first place.
    let share = (range.y - range.x + LANES - 1u) / LANES;
    let begin = min(range.x + lane * share, range.y);
    let end = min(begin + share, range.y);
    var mine = vec2(0u);
    for (var i = begin; i < end; i += AT_ONCE) {
        //!repeat AT_ONCE j
        let key{j} = keys[keys_at + min(i{+j}, end - 1u)];
        //!end
        //!repeat AT_ONCE j
        if i{+j} < end {
            mine += vec2(select(0u, 1u, key{j} > prefix), select(0u, 1u, key{j} == prefix));
        }
        //!end
    }
    let before = lanes_before(lane, mine);
    var equals = before.y;
    var place = before.x + min(equals, wanted);
    for (var i = begin; i < end; i += AT_ONCE) {
        //!repeat AT_ONCE j
        let key{j} = keys[keys_at + min(i{+j}, end - 1u)];
        //!end
        //!repeat AT_ONCE j
        if i{+j} < end {
            let tie = key{j} == prefix;
            if key{j} > prefix || (tie && equals < wanted) {
                chosen[out_at + place] = item_output(row, kv_head, i{+j});
                place += 1u;
            }
            equals += select(0u, 1u, tie);
        }
        //!end
    }
}
