// What a step misses that attends a list of blocks other than its own choice: of a query head's mass in the blocks that the row
// should attend (sink, recent window and chosen), the share in chosen blocks that are not listed, or are nowhere on the GPU. A block's
// mass is the exponential of FACTOR times its score. The largest share of a KV head's queries is written: zero if nothing is missed,
// else above zero.
// Grid: (KV heads, rows).
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include lib/budget.wgsl
//!include lib/place_hot.wgsl

const WORKGROUP: u32 = 64u;
// What a mass that is lost beside the others is taken for.
const LEAST: f32 = 1.0e-30;

struct Scores {
    // Scores from one query head to the next.
    stride: u32,
}

@group(0) @binding(1) var<uniform> score_rows: Scores;
// [row][query head][stride], by logical block; HEADS of the GROUP heads have some
@group(0) @binding(2) var<storage, read> scores: array<f32>;
// [row][KV head][blocks kept], ascending
@group(0) @binding(3) var<storage, read> chosen: array<u32>;
@group(0) @binding(4) var<storage, read> listed: array<u32>;
// [row][KV head]
@group(0) @binding(5) var<storage, read_write> missed: array<f32>;

// Of a lane's blocks: the largest logarithm of a mass, the sum of masses relative to it, that of missed ones, and how many are missed.
var<workgroup> states: array<vec4<f32>, WORKGROUP>;

fn joined(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
    let largest = max(a.x, b.x);
    let sums = exp(a.x - largest) * a.yz + exp(b.x - largest) * b.yz;
    return vec4(largest, sums, a.w + b.w);
}

fn is_listed(first: u32, count: u32, block: u32) -> bool {
    var low = first;
    var end = first + count;
    while low < end {
        let middle = (low + end) / 2u;
        if listed[middle] < block {
            low = middle + 1u;
        } else {
            end = middle;
        }
    }
    return low < first + count && listed[low] == block;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = lane_of(local, WORKGROUP);
    let head = group.y * KV_HEADS + group.x;
    let sink = sink_blocks(group.y);
    let count = blocks_chosen(group.y);
    // What lies behind the chosen ones.
    let recent = recent_first(group.y) - sink - count;
    let items = sealed_blocks(group.y) - recent;
    let lists_at = head * step[H_BLOCKS_KEPT];
    var largest = 0.0;
    for (var h = 0u; h < HEADS; h++) {
        let scores_at = (head * GROUP + h) * score_rows.stride;
        var state = vec4(-3.0e38, 0.0, 0.0, 0.0);
        for (var i = lane; i < items; i += WORKGROUP) {
            var block = i;
            var is_missed = 0.0;
            if i >= sink + count {
                block = i + recent;
            } else if i >= sink {
                block = chosen[lists_at + i - sink];
                let is_attended = is_listed(lists_at, count, block) && kv_place(group.y, group.x, block) != NO_SLOT;
                is_missed = select(1.0, 0.0, is_attended);
            }
            state = joined(state, vec4(FACTOR * scores[scores_at + block], 1.0, is_missed, is_missed));
        }
        states[lane] = state;
        workgroupBarrier();
        for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
            if lane < half {
                states[lane] = joined(states[lane], states[lane + half]);
            }
            workgroupBarrier();
        }
        // Lane 0 alone writes it for the next head, so that none may read it then.
        if lane == 0u && states[0].w > 0.0 {
            let all = states[0];
            let share = all.z / all.y;
            // What is not a number is all of it; compilers may assume that there is none, so the test is on bits.
            let is_number = (bitcast<u32>(share) & 0x7fffffffu) <= 0x7f800000u;
            largest = max(largest, select(1.0, max(share, LEAST), is_number));
        }
    }
    if lane == 0u {
        missed[head] = largest;
    }
}
