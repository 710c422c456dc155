// What the LANES lanes of a workgroup find out together (top_k) where subgroups have 32 lanes: each subgroup first, then one
// value a subgroup through workgroup memory. LANES is a multiple of 32, up to 1024. Assumes that a subgroup holds
// consecutive lanes of a one-dimensional workgroup, as reduce_subgroup does. Every lane must call.
const SUBGROUPS: u32 = LANES / 32u;

var<workgroup> values: array<vec4<f32>, SUBGROUPS>;
var<workgroup> counts: array<vec2<u32>, SUBGROUPS>;
var<workgroup> found: vec3<u32>;

// A subgroup's lanes stay in order, so that sums over those before a lane are its own.
fn lane_here(local: u32) -> u32 {
    return lane_of(local / 32u, SUBGROUPS) * 32u + local % 32u;
}

fn lanes_max4(lane: u32, value: vec4<f32>) -> vec4<f32> {
    let own = subgroupMax(value);
    // What an earlier sum left here is read.
    workgroupBarrier();
    if lane % 32u == 0u {
        values[lane / 32u] = own;
    }
    workgroupBarrier();
    return subgroupMax(values[lane % SUBGROUPS]);
}

fn lanes_sum4(lane: u32, value: vec4<f32>) -> vec4<f32> {
    let own = subgroupAdd(value);
    // As before.
    workgroupBarrier();
    if lane % 32u == 0u {
        values[lane / 32u] = own;
    }
    workgroupBarrier();
    let some = lane % 32u < SUBGROUPS;
    return subgroupAdd(select(vec4(0.0), values[lane % SUBGROUPS], some));
}

// The sums of what the lanes before this one have.
fn lanes_before(lane: u32, own: vec2<u32>) -> vec2<u32> {
    let before = subgroupExclusiveAdd(own);
    if lane % 32u == 31u {
        counts[lane / 32u] = before + own;
    }
    workgroupBarrier();
    let earlier = lane % 32u < lane / 32u;
    return before + subgroupAdd(select(vec2(0u), counts[lane % SUBGROUPS], earlier));
}

// The digit that holds the wanted-th largest key of the histogram, how many keys have a larger one, and how many have it.
fn find_digit(lane: u32, wanted: u32) -> vec3<u32> {
    if lane < 32u {
        // From the top: lane 0 has the eight largest digits.
        let top = 255u - lane * 8u;
        //!repeat 8 i
        let count{i} = atomicLoad(&histogram[top - {i}u]);
        //!end
        let own = count0 + count1 + count2 + count3 + count4 + count5 + count6 + count7;
        var larger = subgroupExclusiveAdd(own);
        if larger < wanted && wanted <= larger + own {
            var digit = vec3(0u);
            //!repeat 8 i
            if larger < wanted {
                digit = vec3(top - {i}u, larger, count{i});
            }
            larger += count{i};
            //!end
            found = digit;
        }
    }
    return workgroupUniformLoad(&found);
}
