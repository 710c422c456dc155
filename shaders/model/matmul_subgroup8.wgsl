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
    //!repeat 4 i
    let row{i} = (first + min(row_base{+8*i} + lane, last)) * matrix.units;
    //!end

    //!repeat 4 i
    var sums{i} = Sums();
    //!end
    for (var unit = 0u; unit < matrix.units; unit++) {
        let x0 = inputs(x0_at + unit * 8u);
        let x1 = inputs(x1_at + unit * 8u);
        //!repeat 4 i
        sums{i} = unit8(row{i} + unit, x0, x1, sums{i});
        //!end
    }
    //!repeat 4 i
    output8(batch, token, row_base{+8*i}, tokens, sums{i}.a0, sums{i}.a1);
    output8(batch, token + 8u, row_base{+8*i}, tokens, sums{i}.b0, sums{i}.b1);
    //!end
}

fn inputs(at: u32) -> array<vec4<f32>, 8> {
    return array<vec4<f32>, 8>(
        //!repeat 8 i
        x[at{+i}],
        //!end
    );
}

// Adds one unit of eight rows; this lane loads its own row of them. Constant indices keep everything in registers.
fn unit8(unit: u32, x0: array<vec4<f32>, 8>, x1: array<vec4<f32>, 8>, before: Sums) -> Sums {
    let w = unit_load(unit);
    var sums = before;
    //!repeat 8 i
    rows8(w[{i}], x0[{i}], x1[{i}], &sums);
    //!end
    return sums;
}

fn rows8(w: vec4<f32>, x0: vec4<f32>, x1: vec4<f32>, sums: ptr<function, Sums>) {
    //!repeat 8 i
    let w{i} = subgroupBroadcast(w, {i}u);
    //!end
    (*sums).a0 += vec4(dot(w0, x0), dot(w1, x0), dot(w2, x0), dot(w3, x0));
    (*sums).a1 += vec4(dot(w4, x0), dot(w5, x0), dot(w6, x0), dot(w7, x0));
    (*sums).b0 += vec4(dot(w0, x1), dot(w1, x1), dot(w2, x1), dot(w3, x1));
    (*sums).b1 += vec4(dot(w4, x1), dot(w5, x1), dot(w6, x1), dot(w7, x1));
}
