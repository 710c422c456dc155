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
        //!repeat 4 i
        let row{i} = (batch.row + min(row{+i}, last)) * units;
        //!end
        var products = vec4(0.0);
        for (var unit = 0u; unit < units; unit++) {
            let own = x[batch.x + lane + unit * 8u];
            let inputs = array<vec4<f32>, 8>(
                //!repeat 8 i
                subgroupBroadcast(own, {i}u),
                //!end
            );
            products += vec4(
                //!repeat 4 i
                unit_dot(unit_bits(row{i} + unit), inputs),
                //!end
            );
        }
        sums += batch.factor * products;
    }
    if row < matrix.rows && is_here {
        output4(batch_y(token, group.z), row, sums);
    }
}
