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
            // Component by component: a select of integers is no GLSL before 4.50.
            //!repeat 4 i
            most = max(most, select(0u, bits.{xyzw[i]}, bits.{xyzw[i]} < INFINITE));
            //!end
        }
    }
    atomicMax(&of_workgroup, most);
    workgroupBarrier();
    if lane == 0u {
        atomicMax(&largest, atomicLoad(&of_workgroup));
    }
}
