// The largest finite magnitude of a part of a weight matrix, by its bits, which are ordered as the numbers are: what its
// weights are scaled by where they become f16 (f16_scale.wgsl). Grid: any number of workgroups.
//!include lib/lane.wgsl
//!include <weights>

@group(0) @binding(0) var<storage, read_write> largest: atomic<u32>;
// Units of 32 weights in the part, and lanes of all workgroups.
@group(0) @binding(1) var<uniform> sizes: vec2<u32>;

const INFINITE: u32 = 0x7f800000u;

var<workgroup> of_workgroup: atomic<u32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = lane_of(local, 256u);
    if lane == 0u {
        atomicStore(&of_workgroup, 0u);
    }
    workgroupBarrier();
    var most = 0u;
    for (var unit = group.x * 256u + lane; unit < sizes.x; unit += sizes.y) {
        for (var quad = 0u; quad < 8u; quad++) {
            let bits = bitcast<vec4<u32>>(unit_quad(unit, quad)) & vec4(0x7fffffffu);
            let finite = select(vec4(0u), bits, bits < vec4(INFINITE));
            most = max(most, max(max(finite.x, finite.y), max(finite.z, finite.w)));
        }
    }
    atomicMax(&of_workgroup, most);
    workgroupBarrier();
    if lane == 0u {
        atomicMax(&largest, atomicLoad(&of_workgroup));
    }
}
