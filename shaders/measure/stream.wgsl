// Reads a buffer once, as fast as memory gives it: what kernels that only read can hope for. Each lane sums every 256th vec4 of
// its workgroup's 4096.
// Grid: (vec4 / 4096).
const LANES: u32 = 256u;
const LANE_VECS: u32 = 16u;

@group(0) @binding(0) var<storage, read> data: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> sums: array<u32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let first = group.x * LANES * LANE_VECS + local;
    let count = arrayLength(&data);
    var sum = vec4(0u);
    for (var i = 0u; i < LANE_VECS; i++) {
        let at = first + i * LANES;
        if at < count {
            sum += data[at];
        }
    }
    sums[group.x * LANES + local] = sum.x + sum.y + sum.z + sum.w;
}
