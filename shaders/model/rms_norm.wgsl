// y[i] = x[r] * weight / sqrt(mean(x[r]^2) + epsilon) (arXiv 1910.07467), one workgroup a row. With GATHER, r is the
// i-th row whose logits are wanted; otherwise r = i. With ADDS it is added to y[i]. What is written may become f16 beside.
// Grid: (rows to write).
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include <reduce>

struct RmsNorm {
    // Floats in a row that count, and from one row to the next.
    width: u32,
    x_stride: u32,
    y_stride: u32,
    epsilon: f32,
}

@group(0) @binding(1) var<uniform> rms_norm: RmsNorm;
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> weight: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4<f32>>;
//!include <halved>

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = lane_of(local, WORKGROUP);
    var row = group.x;
    if GATHER {
        row = step[step[H_OUTPUTS_AT] + group.x];
    }
    let from_at = row * (rms_norm.x_stride / 4u);
    let to_at = group.x * (rms_norm.y_stride / 4u);
    // The last vec4 of a row may lie in part beyond it.
    let whole = rms_norm.width / 4u;
    let rest = rms_norm.width % 4u;
    var squares = 0.0;
    for (var i = lane; i < whole; i += WORKGROUP) {
        let v = x[from_at + i];
        squares += dot(v, v);
    }
    if lane < rest {
        let v = x[from_at + whole][lane];
        squares += v * v;
    }
    let total = workgroup_sum(lane, squares);
    let scale = inverseSqrt(total / f32(rms_norm.width) + rms_norm.epsilon);
    for (var i = lane; i < whole; i += WORKGROUP) {
        let normed = x[from_at + i] * scale * weight[i];
        if ADDS {
            y[to_at + i] += normed;
        } else {
            y[to_at + i] = normed;
            note_normed(normed);
        }
    }
    if lane < rest {
        let normed = x[from_at + whole][lane] * scale * weight[whole][lane];
        if ADDS {
            y[to_at + whole][lane] += normed;
        } else {
            y[to_at + whole][lane] = normed;
        }
    }
    halve_row(lane, to_at);
}
