// The choice of top_k.wgsl where lanes tell each other what they have: a workgroup waits six times for its lanes. A lane ranks
// AT_ONCE items at a time, LANES apart. Keys stay in workgroup memory, HELD at a time; where items are more, their keys go through
// memory. Loops are not written out: a step reads so many weights between two choices that the kernel comes from memory each time,
// and each of its instructions costs more to fetch than to run.
// Grid: (KV heads, rows).
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include lib/budget.wgsl
//!include lib/ordered_key.wgsl
//!include lib/butterfly.wgsl
//!include lib/scores.wgsl
//!include <items>
//!include <rank>

// Subgroups have SUBGROUP lanes, consecutive ones of the workgroup, and are SUBGROUP at most.
const SUBGROUPS: u32 = LANES / SUBGROUP;
// Digits of a histogram that a lane looks at.
const DIGITS: u32 = 256u / SUBGROUP;
// Words of a histogram: see place_of.
const HISTOGRAM: u32 = 256u + 256u / 32u;
// What all lanes rank at a time; HELD is a multiple of it, and AT_ONCE of four.
const ROUND: u32 = LANES * AT_ONCE;

// [row][KV head][stride]: keys, where they are more than HELD, in the place of ranks that others made
@group(0) @binding(3) var<storage, read_write> keys: array<u32>;
// [row][KV head][items_kept()]
@group(0) @binding(4) var<storage, read_write> chosen: array<u32>;

// One a pass, each used once.
var<workgroup> histograms: array<atomic<u32>, 4u * HISTOGRAM>;
// A chunk's keys, and zeros up to a whole round: no key is less, and those of items come first.
var<workgroup> held: array<vec4<u32>, HELD / 4u>;
// Of each subgroup's items, how many are larger than the least key that is chosen, and in the upper half how many are equal to it.
var<workgroup> counts: array<u32, SUBGROUPS>;

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
    let keys_at = (row * KV_HEADS + kv_head) * score_rows.stride + range.x;
    // Where everything is kept nothing was scored, unless what ranks the tokens of all blocks is wanted.
    let keeps_all = k == count;
    if keeps_all {
        for (var i = lane; i < k; i += LANES) {
            chosen[out_at + i] = item_output(row, kv_head, range.x + i);
        }
    }
    if k == 0u || (keeps_all && !KEEPS_TERMS) {
        return;
    }
    let is_one_chunk = count <= HELD;

    for (var i = lane; i < 4u * HISTOGRAM; i += LANES) {
        atomicStore(&histograms[i], 0u);
    }
    sum_exponentials(lane, row, kv_head, items);
    workgroupBarrier();

    let terms = rank_terms(lane, row, kv_head, items);
    keep_terms(lane, row, kv_head, terms);
    if keeps_all {
        return;
    }
    // s_i, as ordered keys, and how many have each first digit. Every lane ranks, past the last item too.
    for (var first = 0u; first < count; first += ROUND) {
        let i = first + lane;
        let ranks = rank_items(terms, row, kv_head, range.x + i, items);
        //!repeat AT_ONCE j
        if i{+j*LANES} < count {
            let key = item_key(row, kv_head, range.x + i{+j*LANES}, ordered_key(ranks[{j}]));
            atomicAdd(&histograms[place_of(key >> 24u)], 1u);
            if is_one_chunk {
                hold(i{+j*LANES}, key);
            } else {
                keys[keys_at + i{+j*LANES}] = key;
            }
        } else if is_one_chunk {
            hold(i{+j*LANES}, 0u);
        }
        //!end
    }

    // The k-th largest key, eight bits at a time from the top; wanted counts down to its rank among its equals. A stride is less than
    // 2^31, which compilers do not know: so they leave the four passes a loop.
    var prefix = 0u;
    var wanted = k;
    for (var p = 0u; p < 4u + (score_rows.stride >> 31u); p++) {
        let below = 24u - 8u * p;
        if wanted > 0u && p > 0u {
            // The bits above them, all of which are prefix's.
            let above = 0xffffff00u << below;
            let begins = (prefix << 8u) << below;
            for (var chunk = 0u; chunk < count; chunk += HELD) {
                // A lane's keys are those that it ranked.
                if !is_one_chunk {
                    recall(lane, keys_at, chunk, count);
                }
                let end = min(HELD, count - chunk);
                for (var first = 0u; first < end; first += ROUND) {
                    //!repeat AT_ONCE j
                    let key{j} = held_key(first + lane{+j*LANES});
                    //!end
                    //!repeat AT_ONCE j
                    if (key{j} & above) == begins {
                        atomicAdd(&histograms[HISTOGRAM * p + place_of((key{j} >> below) & 255u)], 1u);
                    }
                    //!end
                }
            }
        }
        workgroupBarrier();
        if wanted > 0u {
            let digit = find_digit(HISTOGRAM * p, member, wanted);
            prefix = (prefix << 8u) | digit.x;
            wanted -= digit.y;
            // All keys that begin so are wanted: what follows these bits does not matter.
            if wanted == digit.z && prefix > 0u {
                prefix = (prefix << below) - 1u;
                wanted = 0u;
            }
        }
    }

    // In index order: a lane has four items, a subgroup so many lanes' at a time. So many larger and equal ones are in earlier chunks.
    var earlier = vec2(0u);
    for (var chunk = 0u; chunk < count; chunk += HELD) {
        if !is_one_chunk {
            workgroupBarrier();
            recall(lane, keys_at, chunk, count);
            workgroupBarrier();
        }
        let share = (min(HELD, count - chunk) + ROUND - 1u) / ROUND * (ROUND / 4u / SUBGROUPS);
        let begin = subgroup * share;
        var own = 0u;
        for (var first = begin; first < begin + share; first += SUBGROUP) {
            own += larger_and_equal(held[first + member], prefix);
        }
        own = butterfly_count(own, SUBGROUP);
        if member == 0u {
            counts[subgroup] = own;
        }
        workgroupBarrier();
        let others = select(0u, counts[member % SUBGROUPS], member < SUBGROUPS);
        let others_through = count_through(others, member, SUBGROUP);
        var before = earlier + halves(subgroupShuffle(others_through - others, subgroup));
        earlier += halves(subgroupShuffle(others_through, SUBGROUP - 1u));
        for (var first = begin; first < begin + share; first += SUBGROUP) {
            let four = held[first + member];
            // Four items follow one another in what is written too.
            let item = range.x + chunk + (first + member) * 4u;
            let output = item_output(row, kv_head, min(item, items - 1u));
            let these = larger_and_equal(four, prefix);
            let through = count_through(these, member, SUBGROUP);
            var at = before + halves(through - these);
            //!repeat 4 i
            if four[{i}] > prefix || (four[{i}] == prefix && at.y < wanted) {
                chosen[out_at + at.x + min(at.y, wanted)] = output{+i};
            }
            at += vec2(u32(four[{i}] > prefix), u32(four[{i}] == prefix));
            //!end
            before += halves(subgroupShuffle(through, SUBGROUP - 1u));
        }
    }
}

fn hold(i: u32, key: u32) {
    held[i / 4u][i % 4u] = key;
}

fn held_key(i: u32) -> u32 {
    return held[i / 4u][i % 4u];
}

// Holds a chunk's keys: of each lane those that it ranked, AT_ONCE of them on their way at a time.
fn recall(lane: u32, keys_at: u32, chunk: u32, count: u32) {
    for (var i = lane; i < HELD; i += ROUND) {
        //!repeat AT_ONCE j
        let key{j} = keys[keys_at + min(chunk + i{+j*LANES}, count - 1u)];
        //!end
        //!repeat AT_ONCE j
        hold(i{+j*LANES}, select(0u, key{j}, chunk + i{+j*LANES} < count));
        //!end
    }
}

// How many of four keys are larger than this one, and in the upper half of the word how many are equal to it.
fn larger_and_equal(four: vec4<u32>, key: u32) -> u32 {
    let both = vec4<u32>(four > vec4(key)) + (vec4<u32>(four == vec4(key)) << vec4(16u));
    return both.x + both.y + both.z + both.w;
}

fn halves(word: u32) -> vec2<u32> {
    return vec2(word & 0xffffu, word >> 16u);
}

// Where a digit's count is, so that lanes that look at consecutive digits read from different banks.
fn place_of(digit: u32) -> u32 {
    return digit + digit / 32u;
}

// The digit that holds the wanted-th largest key of the histogram, how many keys have a larger one, and how many have it. Every
// subgroup finds it for itself.
fn find_digit(histogram: u32, member: u32, wanted: u32) -> vec3<u32> {
    // From the top: the first lane has the largest digits.
    let top = SUBGROUP - 1u - member;
    var each = array<u32, DIGITS>();
    var own = 0u;
    for (var i = 0u; i < DIGITS; i++) {
        each[i] = atomicLoad(&histograms[histogram + place_of(top * DIGITS + i)]);
        own += each[i];
    }
    let through = count_through(own, member, SUBGROUP);
    var larger = through - own;
    let is_here = larger < wanted && wanted <= through;
    var digit = vec3(0u);
    for (var i = DIGITS; i > 0u; i--) {
        if larger < wanted {
            digit = vec3(top * DIGITS + i - 1u, larger, each[i - 1u]);
        }
        larger += each[i - 1u];
    }
    return subgroupShuffle(digit, firstTrailingBit(subgroupBallot(is_here).x));
}
