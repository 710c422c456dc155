// y[token] (op)= W x[token], a few tokens at a time: decode. Eight lanes share four rows; each lane takes every eighth
// unit of 32 weights, so that its inputs are read once for four rows. Grid: (ceil(rows / 32), tokens, places), where a place
// is a batch's or takes the sum over batches.
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include lib/matrix.wgsl
//!include <weights>
//!include <batch>
//!include <output>

const LANES: u32 = 8u;
const WORKGROUP: u32 = 64u;

var<workgroup> partial: array<vec4<f32>, WORKGROUP>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = lane_of(local, WORKGROUP);
    let part = lane % LANES;
    let row = (group.x * (WORKGROUP / LANES) + lane / LANES) * 4u;
    let token = group.y;
    let last = matrix.rows - 1u;
    let units = matrix.units;

    var sums = vec4(0.0);
    var is_here = false;
    let batches = batches_of(group.z);
    for (var b = batches.x; b < batches.y; b++) {
        let batch = batch_of(token, b);
        if !batch.here {
            continue;
        }
        is_here = true;
        let row0 = (batch.row + min(row, last)) * units;
        let row1 = (batch.row + min(row + 1u, last)) * units;
        let row2 = (batch.row + min(row + 2u, last)) * units;
        let row3 = (batch.row + min(row + 3u, last)) * units;
        var products = vec4(0.0);
        for (var unit = part; unit < units; unit += LANES) {
            let at = batch.x + unit * 8u;
            let inputs = array<vec4<f32>, 8>(
                x[at], x[at + 1u], x[at + 2u], x[at + 3u], x[at + 4u], x[at + 5u], x[at + 6u], x[at + 7u],
            );
            products += vec4(
                unit_dot(row0 + unit, inputs),
                unit_dot(row1 + unit, inputs),
                unit_dot(row2 + unit, inputs),
                unit_dot(row3 + unit, inputs),
            );
        }
        sums += batch.factor * products;
    }
    partial[lane] = sums;
    workgroupBarrier();
    if part == 0u && row < matrix.rows && is_here {
        for (var i = 1u; i < LANES; i++) {
            sums += partial[lane + i];
        }
        output4(batch_y(token, group.z), row, sums);
    }
}
