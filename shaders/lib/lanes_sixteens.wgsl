// What the LANES lanes of a workgroup find out together (top_k), without subgroups: by sums of sixteen, which need fewer barriers
// than a tree. LANES is a multiple of 16, up to 256. Every lane must call.
const SIXTEENS: u32 = LANES / 16u;

var<workgroup> values: array<vec4<f32>, LANES>;
var<workgroup> coarse_values: array<vec4<f32>, 16>;
var<workgroup> counts: array<vec2<u32>, LANES>;
var<workgroup> coarse_counts: array<vec2<u32>, 16>;
var<workgroup> coarse: array<u32, 16>;
var<workgroup> found: vec3<u32>;

fn lane_here(local: u32) -> u32 {
    return lane_of(local, LANES);
}

fn lanes_max4(lane: u32, value: vec4<f32>) -> vec4<f32> {
    values[lane] = value;
    workgroupBarrier();
    if lane < SIXTEENS {
        var most = values[lane * 16u];
        for (var i = 1u; i < 16u; i++) {
            most = max(most, values[lane * 16u + i]);
        }
        coarse_values[lane] = most;
    }
    workgroupBarrier();
    var most = coarse_values[0];
    for (var i = 1u; i < SIXTEENS; i++) {
        most = max(most, coarse_values[i]);
    }
    return most;
}

fn lanes_sum4(lane: u32, value: vec4<f32>) -> vec4<f32> {
    values[lane] = value;
    workgroupBarrier();
    if lane < SIXTEENS {
        var sum = values[lane * 16u];
        for (var i = 1u; i < 16u; i++) {
            sum += values[lane * 16u + i];
        }
        coarse_values[lane] = sum;
    }
    workgroupBarrier();
    var sum = coarse_values[0];
    for (var i = 1u; i < SIXTEENS; i++) {
        sum += coarse_values[i];
    }
    return sum;
}

// The sums of what the lanes before this one have.
fn lanes_before(lane: u32, own: vec2<u32>) -> vec2<u32> {
    counts[lane] = own;
    workgroupBarrier();
    if lane < SIXTEENS {
        var sum = vec2(0u);
        for (var i = 0u; i < 16u; i++) {
            sum += counts[lane * 16u + i];
        }
        coarse_counts[lane] = sum;
    }
    workgroupBarrier();
    var before = vec2(0u);
    for (var i = 0u; i < lane / 16u; i++) {
        before += coarse_counts[i];
    }
    for (var i = lane / 16u * 16u; i < lane; i++) {
        before += counts[i];
    }
    return before;
}

// The digit that holds the wanted-th largest key of the histogram, how many keys have a larger one, and how many have it.
fn find_digit(lane: u32, wanted: u32) -> vec3<u32> {
    if lane < 16u {
        var sum = 0u;
        for (var i = 0u; i < 16u; i++) {
            sum += atomicLoad(&histogram[lane * 16u + i]);
        }
        coarse[lane] = sum;
    }
    workgroupBarrier();
    if lane == 0u {
        // From the top: the sixteen that holds it, then the digit.
        var larger = 0u;
        var at = 15u;
        while at > 0u && larger + coarse[at] < wanted {
            larger += coarse[at];
            at -= 1u;
        }
        at = at * 16u + 15u;
        while (at & 15u) > 0u && larger + atomicLoad(&histogram[at]) < wanted {
            larger += atomicLoad(&histogram[at]);
            at -= 1u;
        }
        found = vec3(at, larger, atomicLoad(&histogram[at]));
    }
    return workgroupUniformLoad(&found);
}
