// The product of matvec.wgsl for adapters whose subgroups have eight lanes and whose loads are dear: software rasterisers,
// which load lane by lane. A lane makes four rows alone; a subgroup loads a unit of inputs once, a vec4 a lane, and
// broadcasts it. Grid: (ceil(rows / 32), tokens, places).
//!include lib/step.wgsl
//!include lib/matrix.wgsl
//!include <weights>
//!include <batch>
//!include <output>

// A subgroup's lanes hold rows 0, 4, 8 .. 28 of its 32 and the three after each.
@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let row = group.x * 32u + lane * 4u;
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
        for (var unit = 0u; unit < units; unit++) {
            let own = x[batch.x + lane + unit * 8u];
            let inputs = array<vec4<f32>, 8>(
                subgroupBroadcast(own, 0u), subgroupBroadcast(own, 1u), subgroupBroadcast(own, 2u), subgroupBroadcast(own, 3u),
                subgroupBroadcast(own, 4u), subgroupBroadcast(own, 5u), subgroupBroadcast(own, 6u), subgroupBroadcast(own, 7u),
            );
            products += vec4(
                unit_dot(unit_bits(row0 + unit), inputs),
                unit_dot(unit_bits(row1 + unit), inputs),
                unit_dot(unit_bits(row2 + unit), inputs),
                unit_dot(unit_bits(row3 + unit), inputs),
            );
        }
        sums += batch.factor * products;
    }
    if row < matrix.rows && is_here {
        output4(batch_y(token, group.z), row, sums);
    }
}
