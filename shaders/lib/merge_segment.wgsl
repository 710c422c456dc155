// The end of prefill where a lane holds whole rows: this segment's share, and what earlier segments left. The including file
// has the bindings segment, out and states.

// How much this segment's sums and what earlier segments left in out (their o / l, with (m, l) in states) count.
fn merge_of(at: u32, m: f32, l: f32) -> vec2<f32> {
    var joint = m;
    var mine = 1.0;
    var theirs = 0.0;
    if segment.index > 0u {
        let state = states[at];
        joint = max(m, state.x);
        mine = exp(m - joint);
        theirs = state.y * exp(state.x - joint);
    }
    let sum = l * mine + theirs;
    if segment.count > 1u {
        states[at] = vec2(joint, sum);
    }
    // A segment that holds none of a row's tokens leaves zeros, not 0 / 0.
    return select(vec2(mine, theirs) / sum, vec2(0.0), sum == 0.0);
}

fn finish(to: u32, merge: vec2<f32>, low: vec4<f32>, high: vec4<f32>) {
    if segment.index == 0u {
        out[to] = low * merge.x;
        out[to + 1u] = high * merge.x;
    } else {
        out[to] = low * merge.x + out[to] * merge.y;
        out[to + 1u] = high * merge.x + out[to + 1u] * merge.y;
    }
}
