// y[token] (op)= W x[token], a few tokens at a time: decode. A team of LANES lanes shares four rows; each lane takes every
// LANES-th unit of 32 weights, so that its inputs are read once for four rows. Inputs go through workgroup memory, where
// neighbouring lanes' lie side by side: read from x itself, each lane's would be a cache line of its own. Long rows take
// large teams: many small workgroups keep more reads in flight. Grid: (ceil(rows / (256 / LANES)), tokens, places), where a place is a batch's or
// takes the sum over batches.
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include lib/matrix.wgsl
//!include <weights>
//!include <batch>
//!include <output>

const WORKGROUP: u32 = 64u;

// Inputs of LANES units: the i-th vec4 of each, one row of them with a gap after another, so that those who write a unit's
// use different banks.
const ROW: u32 = LANES + 1u;

var<workgroup> inputs: array<vec4<f32>, 8u * ROW>;
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
        for (var first = 0u; first < units; first += LANES) {
            workgroupBarrier();
            for (var i = lane; i < min(LANES, units - first) * 8u; i += WORKGROUP) {
                inputs[i % 8u * ROW + i / 8u] = x[batch.x + first * 8u + i];
            }
            workgroupBarrier();
            let unit = first + part;
            if unit < units {
                let own = array<vec4<f32>, 8>(
                    inputs[part], inputs[ROW + part], inputs[2u * ROW + part], inputs[3u * ROW + part],
                    inputs[4u * ROW + part], inputs[5u * ROW + part], inputs[6u * ROW + part], inputs[7u * ROW + part],
                );
                products += vec4(
                    unit_dot(row0 + unit, own),
                    unit_dot(row1 + unit, own),
                    unit_dot(row2 + unit, own),
                    unit_dot(row3 + unit, own),
                );
            }
        }
        sums += batch.factor * products;
    }
    partial[lane] = sums;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half = half / 2u) {
        if part < half {
            sums += partial[lane + half];
            partial[lane] = sums;
        }
        workgroupBarrier();
    }
    if part == 0u && row < matrix.rows && is_here {
        output4(batch_y(token, group.z), row, sums);
    }
}
