// The best of values by their keys: ties go to the lowest place. A value that is not a number is above all numbers, so that it
// cannot hide among them. Include ordered_key.wgsl.
const WORKGROUP: u32 = 256u;
// Values of a row that one workgroup of arg_max_part looks at.
const PART: u32 = 4096u;
const NOT_A_NUMBER: u32 = 0xffffffffu;

// Key and place.
var<workgroup> best: array<vec2<u32>, WORKGROUP>;

fn arg_max_key(value: f32) -> u32 {
    let key = ordered_key(value);
    return select(key, NOT_A_NUMBER, key == 0u);
}

fn better(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    return select(a, b, b.x > a.x || (b.x == a.x && b.y < a.y));
}

// The best of all lanes, for lane 0; every lane must call.
fn best_of_lanes(lane: u32, mine: vec2<u32>) -> vec2<u32> {
    best[lane] = mine;
    workgroupBarrier();
    for (var half = WORKGROUP / 2u; half > 0u; half = half / 2u) {
        if lane < half {
            best[lane] = better(best[lane], best[lane + half]);
        }
        workgroupBarrier();
    }
    return best[0];
}
