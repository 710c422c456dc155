// y[token] (op)= W x[token], a few tokens at a time: decode. A team of LANES lanes shares four rows; each lane takes every
// LANES-th unit of 32 weights, so that its inputs are read once for four rows, and its weights once for TOKENS tokens. Inputs
// go through workgroup memory, where neighbouring lanes' lie side by side (read from x itself, each lane's would be a cache
// line of its own) and all teams share them; the next weights are asked for before these are multiplied. Long rows take
// large teams: more lanes keep more reads in flight. A token's sums are made in one order, whatever is beside it.
// Grid: (ceil(rows / (4 * TEAMS)), ceil(tokens / TOKENS), places), where a place is a batch's or takes the sum over batches.
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include lib/matrix.wgsl
//!include <reduce>
//!include <weights>
//!include <batch>
//!include lib/input.wgsl
//!include <output>
//!include <count>

const TEAMS: u32 = WORKGROUP / LANES;
const TURNS: u32 = (LANES * 8u + WORKGROUP - 1u) / WORKGROUP;

// Inputs of LANES units: the i-th vec4 of each, one row of them with a gap after another, so that those who write a unit's
// use different banks. Token by token.
const ROW: u32 = LANES + 1u;

var<workgroup> inputs: array<vec4<f32>, TOKENS * 8u * ROW>;
var<workgroup> partial: array<vec4<f32>, WORKGROUP>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = lane_of(local, WORKGROUP);
    let part = lane % LANES;
    let row = (group.x * TEAMS + lane / LANES) * 4u;
    let first_token = group.y * TOKENS;
    let tokens = token_count(first_token);
    let last = matrix.rows - 1u;
    let units = matrix.units;

    //!repeat TOKENS t
    // Past the last token the last one is made again, and not written.
    let token{t} = min(first_token{+t}, tokens - 1u);
    var sums{t} = vec4(0.0);
    //!end
    var is_here = false;
    let batches = batches_of(group.z);
    for (var b = batches.x; b < batches.y; b++) {
        // Where tokens have matrices of their own, a workgroup has one token.
        let batch = batch_of(token0, b);
        if !batch.here {
            continue;
        }
        is_here = true;
        //!repeat TOKENS t
        let x{t} = batch_of(token{t}, b).x;
        var products{t} = vec4(0.0);
        //!end
        //!repeat 4 i
        let row{i} = (batch.row + min(row{+i}, last)) * units;
        var next{i} = unit_bits(row{i} + min(part, units - 1u));
        //!end
        for (var first = 0u; first < units; first += LANES) {
            workgroupBarrier();
            //!repeat TOKENS t
            for (var turn = 0u; turn < TURNS; turn++) {
                let i = lane + turn * WORKGROUP;
                if i < min(LANES, units - first) * 8u {
                    inputs[({t}u * 8u + i % 8u) * ROW + i / 8u] = input(x{t}, first * 8u + i, {t}u);
                }
            }
            //!end
            workgroupBarrier();
            //!repeat 4 i
            let bits{i} = next{i};
            //!end
            if first + LANES < units {
                let unit = min(first + LANES + part, units - 1u);
                //!repeat 4 i
                next{i} = unit_bits(row{i} + unit);
                //!end
            }
            if first + part < units {
                //!repeat TOKENS t
                var lower{t} = vec4(0.0);
                var upper{t} = vec4(0.0);
                var total{t} = vec4(0.0);
                //!end
                //!repeat 4 j
                //!repeat 4 i
                let a{i}{j} = bits_quad(bits{i}, {j}u);
                //!end
                //!repeat TOKENS t
                let x{t}{j} = inputs[({t}u * 8u{+j}) * ROW + part];
                total{t} += x{t}{j};
                lower{t} = onto4(lower{t}, a0{j}, a1{j}, a2{j}, a3{j}, x{t}{j});
                //!end
                //!end
                //!repeat 4..8 j
                //!repeat 4 i
                let a{i}{j} = bits_quad(bits{i}, {j}u);
                //!end
                //!repeat TOKENS t
                let x{t}{j} = inputs[({t}u * 8u{+j}) * ROW + part];
                total{t} += x{t}{j};
                upper{t} = onto4(upper{t}, a0{j}, a1{j}, a2{j}, a3{j}, x{t}{j});
                //!end
                //!end
                //!repeat 4 i
                let factors{i} = bits_factors(bits{i});
                //!end
                //!repeat TOKENS t
                products{t} += vec4(factors0.x, factors1.x, factors2.x, factors3.x) * lower{t}
                    + vec4(factors0.y, factors1.y, factors2.y, factors3.y) * upper{t};
                if HAVE_OFFSETS {
                    products{t} += vec4(factors0.z, factors1.z, factors2.z, factors3.z) * dot(total{t}, vec4(1.0));
                }
                //!end
            }
        }
        //!repeat TOKENS t
        sums{t} += batch.factor * products{t};
        //!end
    }
    // A lane a token, so that what writes is there once.
    var sum = vec4(0.0);
    //!repeat TOKENS t
    let sum{t} = team_sum(lane, {t}u, sums{t}) * input_factor(lane, {t}u);
    if part == {t}u {
        sum = sum{t};
    }
    //!end
    let token = first_token + part;
    if part < TOKENS && token < tokens && row < matrix.rows && is_here {
        output4(batch_y(token, group.z), row, sum);
    }
}

// Four rows' dot products with the same inputs, added term by term.
fn onto4(sums: vec4<f32>, a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>, x: vec4<f32>) -> vec4<f32> {
    return sums + vec4(a.x, b.x, c.x, d.x) * x.x + vec4(a.y, b.y, c.y, d.y) * x.y
        + vec4(a.z, b.z, c.z, d.z) * x.z + vec4(a.w, b.w, c.w, d.w) * x.w;
}

// The sum of a team's parts, for one of its first eight lanes: each of these sums an eighth of them, then that one these sums. Every lane
// must call.
fn team_sum(lane: u32, taker: u32, own: vec4<f32>) -> vec4<f32> {
    let part = lane % LANES;
    var sums = own;
    workgroupBarrier();
    partial[lane] = sums;
    workgroupBarrier();
    if part < 8u {
        for (var i = part + 8u; i < LANES; i += 8u) {
            sums += partial[lane - part + i];
        }
        partial[lane] = sums;
    }
    workgroupBarrier();
    if part == taker {
        let first = lane - part;
        sums = partial[first];
        for (var i = 1u; i < 8u; i++) {
            sums += partial[first + i];
        }
    }
    return sums;
}
