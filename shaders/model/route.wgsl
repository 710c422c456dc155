// Chooses each row's experts: those USED of EXPERTS with the largest choice, ties to the lowest number, NaN never before a
// number, in descending order; then the shared ones with weight one. A weight is FACTOR times the score, divided by the
// sum of the chosen scores where NORMALISED. Grid: (rows).
//!include lib/lane.wgsl
//!include lib/ordered_key.wgsl
//!include <gate>

const WORKGROUP: u32 = 64u;

@group(0) @binding(0) var<storage, read> logits: array<f32>;
// [row][SLOTS]: expert and weight
@group(0) @binding(1) var<storage, read_write> slots: array<vec2<u32>>;
@group(0) @binding(2) var<uniform> route: Route;

struct Route {
    // Floats from one row's logits to the next.
    stride: u32,
}

var<workgroup> scores: array<f32, EXPERTS>;
var<workgroup> keys: array<u32, EXPERTS>;
var<workgroup> chosen: array<u32, USED>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = lane_of(local, WORKGROUP);
    let row = group.x;
    let at = row * route.stride;
    for (var i = lane; i < EXPERTS; i += WORKGROUP) {
        scores[i] = logits[at + i];
        keys[i] = ordered_key(scores[i]);
    }
    workgroupBarrier();
    // NaN is told by its bits: what max and exp make of it is not defined.
    var largest_key = 0u;
    for (var i = 0u; i < EXPERTS; i++) {
        largest_key = max(largest_key, keys[i]);
    }
    let largest = ordered_value(largest_key);
    workgroupBarrier();
    for (var i = lane; i < EXPERTS; i += WORKGROUP) {
        var score = scores[i];
        if ordered_key(score) != 0u {
            score = gate_score(score, largest);
        }
        scores[i] = score;
        keys[i] = ordered_key(gate_choice(score, i));
    }
    workgroupBarrier();
    for (var i = lane; i < EXPERTS; i += WORKGROUP) {
        var rank = 0u;
        for (var other = 0u; other < EXPERTS; other++) {
            if keys[other] > keys[i] || (keys[other] == keys[i] && other < i) {
                rank += 1u;
            }
        }
        if rank < USED {
            chosen[rank] = i;
        }
    }
    workgroupBarrier();
    // Added to the sum so that scores of zero have weights of zero.
    var whole = 1.0e-20;
    if NORMALISED {
        for (var i = 0u; i < USED; i++) {
            whole += scores[chosen[i]];
        }
    } else {
        whole = gate_whole();
    }
    for (var i = lane; i < SLOTS; i += WORKGROUP) {
        var slot = vec2(EXPERTS + i - USED, bitcast<u32>(1.0));
        if i < USED {
            slot = vec2(chosen[i], bitcast<u32>(scores[chosen[i]] / whole * FACTOR));
        }
        slots[row * SLOTS + i] = slot;
    }
}
