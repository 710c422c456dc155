// The product of matvec.wgsl for adapters whose subgroups have eight lanes and whose loads are dear: software rasterisers,
// which load lane by lane. A lane makes four rows alone; a subgroup loads a unit of inputs once, a vec4 a lane, and
// broadcasts it. Grid: (ceil(rows / 32), tokens).
//!include lib/step.wgsl
//!include lib/matrix.wgsl
//!include <weights>
//!include <output>

// A subgroup's lanes hold rows 0, 4, 8 .. 28 of its 32 and the three after each.
@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let row = group.x * 32u + lane * 4u;
    let token = group.y;
    let last = matrix.rows - 1u;
    let units = matrix.units;
    let row0 = min(row, last) * units;
    let row1 = min(row + 1u, last) * units;
    let row2 = min(row + 2u, last) * units;
    let row3 = min(row + 3u, last) * units;
    let x_at = token * (matrix.x_stride / 4u) + lane;
    var sums = vec4(0.0);
    for (var unit = 0u; unit < units; unit++) {
        let own = x[x_at + unit * 8u];
        let inputs = array<vec4<f32>, 8>(
            subgroupBroadcast(own, 0u), subgroupBroadcast(own, 1u), subgroupBroadcast(own, 2u), subgroupBroadcast(own, 3u),
            subgroupBroadcast(own, 4u), subgroupBroadcast(own, 5u), subgroupBroadcast(own, 6u), subgroupBroadcast(own, 7u),
        );
        sums += vec4(
            unit_dot(row0 + unit, inputs),
            unit_dot(row1 + unit, inputs),
            unit_dot(row2 + unit, inputs),
            unit_dot(row3 + unit, inputs),
        );
    }
    if row < matrix.rows {
        output4(token, row, sums);
    }
}
