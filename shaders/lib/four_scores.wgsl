// Of one item, the scores of four of a KV head's query heads; a group's last quad may repeat its last head.
fn four_scores(first: u32, quad: u32, item: u32) -> vec4<f32> {
    let h = quad * 4u;
    return vec4(
        //!repeat 4 i
        scores[first + min(h{+i}, GROUP - 1u) * score_rows.stride + item],
        //!end
    );
}

// What a head's exponentials are multiplied by, of the sums of all of them; one that is repeated counts once.
fn head_factors(quad: u32, sums: vec4<f32>) -> vec4<f32> {
    let counts_once = vec4(quad * 4u) + vec4(0u, 1u, 2u, 3u) < vec4(GROUP);
    return select(vec4(0.0), 1.0 / (f32(GROUP) * sums), counts_once);
}

// The largest of a lane's scores, and the sum of their exponentials relative to it.
struct Exponentials {
    most: vec4<f32>,
    sum: vec4<f32>,
}

// Of every LANES-th item from the lane's own on: LOADS at a time, so that it does not wait for each of its scores.
fn exponentials_of_lane(lane: u32, first_score: u32, quad: u32, items: u32) -> Exponentials {
    var most = vec4(-3.0e38);
    var sum = vec4(0.0);
    for (var i = lane; i < items; i += LANES * LOADS) {
        //!repeat LOADS j
        let x{j} = four_scores(first_score, quad, min(i{+j*LANES}, items - 1u));
        //!end
        var next = most;
        //!repeat LOADS j
        next = max(next, x{j});
        //!end
        if any(next > most) {
            sum *= exp(most - next);
            most = next;
        }
        //!repeat LOADS j
        sum += select(vec4(0.0), exp(x{j} - most), i{+j*LANES} < items);
        //!end
    }
    return Exponentials(most, sum);
}
