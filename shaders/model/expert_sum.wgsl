// Adds what a row's experts made to the residual stream: x[row] += sum over slots of weight * made[entry], in the order of
// the slots. Grid: (ceil(width / 256), rows).
//!include lib/expert_slots.wgsl

struct ExpertSum {
    // Floats of a row, and from one row to the next.
    width: u32,
    stride: u32,
}

@group(0) @binding(0) var<uniform> expert_sum: ExpertSum;
@group(0) @binding(1) var<storage, read> slots: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> made: array<f32>;
@group(0) @binding(3) var<storage, read_write> x: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group.y;
    for (var i = group.x * 256u + local; i < min(expert_sum.width, group.x * 256u + 256u); i += 64u) {
        var sum = 0.0;
        for (var slot = 0u; slot < SLOTS; slot++) {
            sum += slot_weight(row, slot) * made[(row * SLOTS + slot) * expert_sum.stride + i];
        }
        x[row * expert_sum.stride + i] += sum;
    }
}
