// y[token] (op)= W x[token], a few tokens at a time: decode. A team of LANES lanes shares four rows; each lane takes every
// LANES-th unit of 32 weights, so that its inputs are read once for four rows. Inputs go through workgroup memory, where
// neighbouring lanes' lie side by side (read from x itself, each lane's would be a cache line of its own) and all teams
// share them; weights are asked for before the lanes wait for inputs. Long rows take large teams: more lanes keep more
// reads in flight. Grid: (ceil(rows / (4 * TEAMS)), tokens, places), where a place is a batch's or takes the sum over batches.
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include lib/matrix.wgsl
//!include <reduce>
//!include <weights>
//!include <batch>
//!include <input>
//!include <output>

const TEAMS: u32 = WORKGROUP / LANES;
const TURNS: u32 = (LANES * 8u + WORKGROUP - 1u) / WORKGROUP;

// Inputs of LANES units: the i-th vec4 of each, one row of them with a gap after another, so that those who write a unit's
// use different banks.
const ROW: u32 = LANES + 1u;

var<workgroup> inputs: array<vec4<f32>, 8u * ROW>;
var<workgroup> partial: array<vec4<f32>, WORKGROUP>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = lane_of(local, WORKGROUP);
    let part = lane % LANES;
    let row = (group.x * TEAMS + lane / LANES) * 4u;
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
        //!repeat 4 i
        let row{i} = (batch.row + min(row{+i}, last)) * units;
        //!end
        var products = vec4(0.0);
        for (var first = 0u; first < units; first += LANES) {
            let unit = min(first + part, units - 1u);
            //!repeat 4 i
            let bits{i} = unit_bits(row{i} + unit);
            //!end
            workgroupBarrier();
            for (var turn = 0u; turn < TURNS; turn++) {
                let i = lane + turn * WORKGROUP;
                if i < min(LANES, units - first) * 8u {
                    inputs[i % 8u * ROW + i / 8u] = input(batch.x, first * 8u + i);
                }
            }
            workgroupBarrier();
            if first + part < units {
                let own = array<vec4<f32>, 8>(
                    inputs[part], inputs[ROW + part], inputs[2u * ROW + part], inputs[3u * ROW + part],
                    inputs[4u * ROW + part], inputs[5u * ROW + part], inputs[6u * ROW + part], inputs[7u * ROW + part],
                );
                products += vec4(
                    //!repeat 4 i
                    unit_dot(bits{i}, own),
                    //!end
                );
            }
        }
        sums += batch.factor * products;
    }
    partial[lane] = sums;
    let factor = input_factor(lane);
    // Eight lanes of a team sum its parts, then one of them sums theirs.
    workgroupBarrier();
    if part < 8u {
        for (var i = part + 8u; i < LANES; i += 8u) {
            sums += partial[lane - part + i];
        }
        partial[lane] = sums;
    }
    workgroupBarrier();
    if part == 0u && row < matrix.rows && is_here {
        for (var i = 1u; i < 8u; i++) {
            sums += partial[lane + i];
        }
        output4(batch_y(token, group.z), row, sums * factor);
    }
}
