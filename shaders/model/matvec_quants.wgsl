// The product of matvec.wgsl for weights of a few bits, where subgroups have 32 lanes: integers, as what bounds it on a GPU is not
// memory but the making of floats. A team of LANES lanes of a subgroup shares four rows; each lane takes every LANES-th unit of 32
// weights, so that its inputs are read once for four rows, and its weights once for TOKENS tokens. Inputs of PORTION units at a time
// are in workgroup memory for all teams: lanes wait for each other once a portion, and never for sums. The next weights are asked
// for before these are multiplied. A token's sums are made in one order, whatever is beside it.
//
// Precision: an input becomes an integer of 16 bits times its unit's scale, sigma = max |x| / 32512, so it is off by sigma / 2 at
// most; its two bytes are multiplied apart (256 high + low) and add up exactly.
// Grid: (ceil(rows / (4 * TEAMS)), ceil(tokens / TOKENS), places), where a place is a batch's or takes the sum over batches.
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include lib/matrix.wgsl
//!include <reduce>
//!include <weights>
//!include <batch>
//!include <input>
//!include <output>
//!include <count>

const TEAMS: u32 = WORKGROUP / LANES;
// The largest integer, of which both bytes are signed ones.
const LARGEST: f32 = 32512.0;
// Units whose inputs are all smaller count as if the largest were this, so that no scale's inverse overflows.
const LEAST: f32 = 1e-30;

// Quads of a portion's units, one row of them with a gap after another, so that those who write a unit's use different banks: high
// bytes and low bytes. Token by token.
const ROW: u32 = PORTION + 4u;

var<workgroup> inputs: array<vec2<u32>, TOKENS * 8u * ROW>;
// Of each unit, sigma and the sum of the inputs.
var<workgroup> terms: array<vec2<f32>, TOKENS * PORTION>;

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
        for (var portion = 0u; portion < units; portion += PORTION) {
            let here = min(PORTION, units - portion);
            workgroupBarrier();
            // A unit's quads are those of eight neighbours.
            for (var i = lane; i < here * 8u; i += WORKGROUP) {
                //!repeat TOKENS t
                quantise(input(x{t}, portion * 8u + i, {t}u), i, {t}u);
                //!end
            }
            workgroupBarrier();
            for (var at = part; at < here; at += LANES) {
                //!repeat 4 i
                let bits{i} = next{i};
                //!end
                let unit = min(portion + at + LANES, units - 1u);
                //!repeat 4 i
                next{i} = unit_bits(row{i} + unit);
                //!end
                //!repeat TOKENS t
                var lower{t} = vec4(0i);
                var upper{t} = vec4(0i);
                //!end
                //!repeat 4 j
                //!repeat 4 i
                let a{i}{j} = bits_bytes(bits{i}, {j}u);
                //!end
                //!repeat TOKENS t
                lower{t} += products4(a0{j}, a1{j}, a2{j}, a3{j}, inputs[({t}u * 8u{+j}) * ROW + at]);
                //!end
                //!end
                //!repeat 4..8 j
                //!repeat 4 i
                let a{i}{j} = bits_bytes(bits{i}, {j}u);
                //!end
                //!repeat TOKENS t
                upper{t} += products4(a0{j}, a1{j}, a2{j}, a3{j}, inputs[({t}u * 8u{+j}) * ROW + at]);
                //!end
                //!end
                //!repeat 4 i
                let factors{i} = bits_factors(bits{i});
                //!end
                //!repeat TOKENS t
                let term{t} = terms[{t}u * PORTION + at];
                if TWO_SCALES {
                    products{t} += term{t}.x * (vec4(factors0.x, factors1.x, factors2.x, factors3.x) * vec4<f32>(lower{t})
                        + vec4(factors0.y, factors1.y, factors2.y, factors3.y) * vec4<f32>(upper{t}));
                } else {
                    products{t} += term{t}.x * vec4(factors0.x, factors1.x, factors2.x, factors3.x)
                        * vec4<f32>(lower{t} + upper{t});
                }
                if HAVE_OFFSETS {
                    products{t} += term{t}.y * vec4(factors0.z, factors1.z, factors2.z, factors3.z);
                }
                //!end
            }
        }
        //!repeat TOKENS t
        sums{t} += batch.factor * products{t};
        //!end
    }
    //!repeat TOKENS t
    {
        let sums = team_sum(sums{t}) * input_factor(lane, {t}u);
        if part == 0u && row < matrix.rows && is_here && first_token{+t} < tokens {
            output4(batch_y(token{t}, group.z), row, sums);
        }
        // Another token's norm is summed where this one's is read.
        workgroupBarrier();
    }
    //!end
}

// Quad i of a portion, for the workgroup's given token. Largest by their bits: that finds NaN and infinities, whose scale makes all
// that they are part of no number.
fn quantise(values: vec4<f32>, i: u32, token: u32) {
    let magnitudes = bitcast<vec4<u32>>(values) & vec4(0x7fffffffu);
    var most = max(max(magnitudes.x, magnitudes.y), max(magnitudes.z, magnitudes.w));
    most = max(most, subgroupShuffleXor(most, 1u));
    most = max(most, subgroupShuffleXor(most, 2u));
    most = max(most, subgroupShuffleXor(most, 4u));
    let largest = bitcast<f32>(max(most, bitcast<u32>(LEAST)));
    let integers = vec4<i32>(round(values * (LARGEST / largest)));
    let high = (integers + 128) >> vec4(8u);
    inputs[(token * 8u + i % 8u) * ROW + i / 8u] = vec2(pack4xI8(high), pack4xI8(integers - high * 256));
    var sum = integers.x + integers.y + integers.z + integers.w;
    sum += subgroupShuffleXor(sum, 1u);
    sum += subgroupShuffleXor(sum, 2u);
    sum += subgroupShuffleXor(sum, 4u);
    if i % 8u == 0u {
        let sigma = largest / LARGEST;
        terms[token * PORTION + i / 8u] = vec2(sigma, sigma * f32(sum));
    }
}

// Products of four rows' quads with an input's.
fn products4(a: u32, b: u32, c: u32, d: u32, x: vec2<u32>) -> vec4<i32> {
    let high = vec4(dot4I8Packed(a, x.x), dot4I8Packed(b, x.x), dot4I8Packed(c, x.x), dot4I8Packed(d, x.x));
    let low = vec4(dot4I8Packed(a, x.y), dot4I8Packed(b, x.y), dot4I8Packed(c, x.y), dot4I8Packed(d, x.y));
    return high * 256 + low;
}

// A team's lanes are consecutive, as many as a power of two.
fn team_sum(own: vec4<f32>) -> vec4<f32> {
    var sum = own;
    for (var distance = 1u; distance < LANES; distance *= 2u) {
        sum += subgroupShuffleXor(sum, distance);
    }
    return sum;
}
