// Chooses a sequence's index channels: the CHANNELS / 2 rotary pairs with the largest
// sum over the pair of (1/G) sum_h max |q_h| * max |k| (AsyncTLS, arXiv 2604.07815, after Double Sparsity), ties to the
// lowest pair, in ascending order. One rotated channel alone depends on absolute phase, a pair only on distance.
// Grid: (KV heads, sequences to freeze).
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include lib/channels.wgsl
//!include lib/ordered_key.wgsl

const WORKGROUP: u32 = 64u;
const PAIRS: u32 = HEAD_DIM / 2u;

struct Freeze {
    sequence: u32,
}

@group(0) @binding(1) var<uniform> freeze: Freeze;
@group(0) @binding(2) var<storage, read> stats: array<f32>;
@group(0) @binding(3) var<storage, read_write> channels: array<u32>;

var<workgroup> keys: array<u32, PAIRS>;
var<workgroup> chosen: array<u32, PAIRS>;

fn dimension_of(pair: u32, second: u32) -> u32 {
    return select(pair + second * PAIRS, 2u * pair + second, ROPE_INTERLEAVED);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = lane_of(local, WORKGROUP);
    let kv_head = group.x;
    let sequence = freeze.sequence;
    let stats_at = (sequence * KV_HEADS + kv_head) * (GROUP + 1u) * HEAD_DIM;
    for (var pair = lane; pair < PAIRS; pair += WORKGROUP) {
        var score = 0.0;
        for (var second = 0u; second < 2u; second++) {
            let dimension = dimension_of(pair, second);
            var queries = 0.0;
            for (var h = 0u; h < GROUP; h++) {
                queries += stats[stats_at + h * HEAD_DIM + dimension];
            }
            score += queries / f32(GROUP) * stats[stats_at + GROUP * HEAD_DIM + dimension];
        }
        keys[pair] = ordered_key(score);
    }
    workgroupBarrier();
    for (var pair = lane; pair < PAIRS; pair += WORKGROUP) {
        var rank = 0u;
        for (var other = 0u; other < PAIRS; other++) {
            if keys[other] > keys[pair] || (keys[other] == keys[pair] && other < pair) {
                rank += 1u;
            }
        }
        chosen[pair] = select(0u, 1u, rank < CHANNELS / 2u);
    }
    workgroupBarrier();
    for (var pair = lane; pair < PAIRS; pair += WORKGROUP) {
        if chosen[pair] == 0u {
            continue;
        }
        var place = 0u;
        for (var other = 0u; other < pair; other++) {
            place += chosen[other];
        }
        for (var second = 0u; second < 2u; second++) {
            channels[channel_at(sequence, kv_head, place * 2u + second)] = dimension_of(pair, second);
        }
    }
}
