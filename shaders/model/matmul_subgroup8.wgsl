// The product of matmul.wgsl for adapters whose subgroups have eight lanes and whose loads are dear: software rasterisers,
// which load lane by lane. A subgroup makes 32 rows x 16 tokens with no workgroup memory: its lanes hold two tokens each,
// and each loads one row of W in eight, whose weights are broadcast to all. Grid: (ceil(rows / 64), ceil(tokens / 64), batches).
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include lib/matrix.wgsl
//!include <weights>
//!include <tokens>
//!include <output>
//!include lib/output8.wgsl

// Sums of eight rows for this lane's two tokens.
struct Sums {
    a0: vec4<f32>,
    a1: vec4<f32>,
    b0: vec4<f32>,
    b1: vec4<f32>,
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let batch = group.z;
    let tokens = token_count(batch);
    let subgroup = lane_of(local, 64u) / 8u;
    let row_base = group.x * 64u + subgroup % 2u * 32u;
    let token = group.y * 64u + subgroup / 2u * 16u + lane;
    if row_base >= matrix.rows || token - lane >= tokens {
        return;
    }
    let first = token_rows(batch);
    let x0_at = token_x(batch, min(token, tokens - 1u));
    let x1_at = token_x(batch, min(token + 8u, tokens - 1u));
    let last = matrix.rows - 1u;
    let row0 = (first + min(row_base + lane, last)) * matrix.units;
    let row1 = (first + min(row_base + 8u + lane, last)) * matrix.units;
    let row2 = (first + min(row_base + 16u + lane, last)) * matrix.units;
    let row3 = (first + min(row_base + 24u + lane, last)) * matrix.units;

    var sums0 = Sums();
    var sums1 = Sums();
    var sums2 = Sums();
    var sums3 = Sums();
    for (var unit = 0u; unit < matrix.units; unit++) {
        let x0 = inputs(x0_at + unit * 8u);
        let x1 = inputs(x1_at + unit * 8u);
        sums0 = unit8(row0 + unit, x0, x1, sums0);
        sums1 = unit8(row1 + unit, x0, x1, sums1);
        sums2 = unit8(row2 + unit, x0, x1, sums2);
        sums3 = unit8(row3 + unit, x0, x1, sums3);
    }
    output8(batch, token, row_base, tokens, sums0.a0, sums0.a1);
    output8(batch, token + 8u, row_base, tokens, sums0.b0, sums0.b1);
    output8(batch, token, row_base + 8u, tokens, sums1.a0, sums1.a1);
    output8(batch, token + 8u, row_base + 8u, tokens, sums1.b0, sums1.b1);
    output8(batch, token, row_base + 16u, tokens, sums2.a0, sums2.a1);
    output8(batch, token + 8u, row_base + 16u, tokens, sums2.b0, sums2.b1);
    output8(batch, token, row_base + 24u, tokens, sums3.a0, sums3.a1);
    output8(batch, token + 8u, row_base + 24u, tokens, sums3.b0, sums3.b1);
}

fn inputs(at: u32) -> array<vec4<f32>, 8> {
    return array<vec4<f32>, 8>(
        x[at], x[at + 1u], x[at + 2u], x[at + 3u], x[at + 4u], x[at + 5u], x[at + 6u], x[at + 7u],
    );
}

// Adds one unit of eight rows; this lane loads its own row of them. Constant indices keep everything in registers.
fn unit8(unit: u32, x0: array<vec4<f32>, 8>, x1: array<vec4<f32>, 8>, before: Sums) -> Sums {
    let w = unit_load(unit);
    var sums = before;
    rows8(w[0], x0[0], x1[0], &sums);
    rows8(w[1], x0[1], x1[1], &sums);
    rows8(w[2], x0[2], x1[2], &sums);
    rows8(w[3], x0[3], x1[3], &sums);
    rows8(w[4], x0[4], x1[4], &sums);
    rows8(w[5], x0[5], x1[5], &sums);
    rows8(w[6], x0[6], x1[6], &sums);
    rows8(w[7], x0[7], x1[7], &sums);
    return sums;
}

fn rows8(w: vec4<f32>, x0: vec4<f32>, x1: vec4<f32>, sums: ptr<function, Sums>) {
    let w0 = subgroupBroadcast(w, 0u);
    let w1 = subgroupBroadcast(w, 1u);
    let w2 = subgroupBroadcast(w, 2u);
    let w3 = subgroupBroadcast(w, 3u);
    let w4 = subgroupBroadcast(w, 4u);
    let w5 = subgroupBroadcast(w, 5u);
    let w6 = subgroupBroadcast(w, 6u);
    let w7 = subgroupBroadcast(w, 7u);
    (*sums).a0 += vec4(dot(w0, x0), dot(w1, x0), dot(w2, x0), dot(w3, x0));
    (*sums).a1 += vec4(dot(w4, x0), dot(w5, x0), dot(w6, x0), dot(w7, x0));
    (*sums).b0 += vec4(dot(w0, x1), dot(w1, x1), dot(w2, x1), dot(w3, x1));
    (*sums).b1 += vec4(dot(w4, x1), dot(w5, x1), dot(w6, x1), dot(w7, x1));
}
