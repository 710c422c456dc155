// The product of matvec.wgsl for weights of a few bits, where subgroups have 32 lanes: integers, as what bounds it on a GPU is not
// memory but the making of floats. A team of LANES lanes of a subgroup has four rows, and several teams may have the same ones: the
// lanes of all of these take the units of 32 weights in turn, so that a lane's inputs are read once for four rows, and its weights
// once for TOKENS tokens. Inputs of PORTION units at a time are in workgroup memory for all teams: lanes wait for each other once a
// portion. A workgroup may take other rows in turn. Where all units are one portion it does so with the integers that it has; a sum over
// several matrices makes them again. The next weights are asked for before these are multiplied, those of the next turn too. A token's
// sums are made in one order, whatever is beside it.
//
// What differs from matrix to matrix is told by `matrix`, not by constants, so that a layer's products are one pipeline: a GPU's cores
// keep little code (benches/NOTES.md, "Code that stays").
//
// Precision: an input becomes an integer of 16 bits times its unit's scale, sigma = max |x| / 32512, so it is off by sigma / 2 at
// most; its two bytes are multiplied apart (256 high + low) and add up exactly.
// Grid: (ceil(rows / (4 * TEAMS / shares * turns)), ceil(tokens / TOKENS), places), where a place is a batch's or takes the sum over
// batches.
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include lib/matrix.wgsl
//!include lib/rounding.wgsl
//!include lib/magnitude.wgsl
//!include <reduce>
//!include <weights>
//!include <batch>
//!include lib/input.wgsl
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

// Sums of a team that shares its rows. Token by token.
var<workgroup> shares: array<vec4<f32>, TOKENS * TEAMS>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = lane_of(local, WORKGROUP);
    let part = lane % LANES;
    let team = lane / LANES;
    // Teams that have the same rows, which of them this is, and the units that they take at a time.
    let sharing = 1u << matrix.share_bits;
    let share = team & (sharing - 1u);
    let stride = LANES << matrix.share_bits;
    let rows_at_once = (4u * TEAMS) >> matrix.share_bits;
    // The first of a lane's units in a portion.
    let own = share * LANES + part;
    let first_token = group.y * TOKENS;
    let tokens = token_count(first_token);
    let last = matrix.rows - 1u;
    let units = matrix.units;
    var row = group.x * matrix.turns * rows_at_once + (team >> matrix.share_bits) * 4u;

    //!repeat TOKENS t
    // Past the last token the last one is made again, and not written.
    let token{t} = min(first_token{+t}, tokens - 1u);
    var factor{t} = 1.0;
    //!end
    //!repeat 4 i
    var next{i}: UnitBits;
    //!end
    for (var turn = 0u; turn < matrix.turns; turn++) {
        let rows_ahead = select(0u, rows_at_once, turn + 1u < matrix.turns);
        //!repeat TOKENS t
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
            // Where the next turn begins; in the last one, what is here already.
            let ahead{i} = (batch.row + min(row + rows_ahead{+i}, last)) * units + min(own, units - 1u);
            if turn == 0u || IS_SUM {
                next{i} = unit_bits(row{i} + min(own, units - 1u));
            }
            //!end
            for (var portion = 0u; portion < units; portion += PORTION) {
                let here = min(PORTION, units - portion);
                if turn == 0u || IS_SUM || units > PORTION {
                    workgroupBarrier();
                    // A unit's quads are those of eight neighbours. All lanes go round as often, past the last quad too: where a
                    // compiler cannot see that lanes are together it guards each shuffle by a dozen instructions.
                    for (var first = 0u; first < here * 8u; first += WORKGROUP) {
                        let i = first + lane;
                        //!repeat TOKENS t
                        var values{t} = vec4(0.0);
                        if i < here * 8u {
                            values{t} = input(x{t}, portion * 8u + i, {t}u);
                        }
                        //!end
                        //!repeat TOKENS t
                        quantise(values{t}, i, {t}u, i < here * 8u);
                        //!end
                    }
                    workgroupBarrier();
                }
                for (var at = own; at < here; at += stride) {
                    //!repeat 4 i
                    let bits{i} = next{i};
                    //!end
                    let unit = portion + at + stride;
                    //!repeat 4 i
                    next{i} = unit_bits(select(ahead{i}, row{i} + unit, unit < units));
                    //!end
                    // Products with high bytes and with low ones, each summed as it is.
                    //!repeat TOKENS t
                    var high{t} = vec4(0i);
                    var low{t} = vec4(0i);
                    //!end
                    //!repeat 4 j
                    //!repeat 4 i
                    let a{i}{j} = bits_bytes(bits{i}, {j}u);
                    //!end
                    //!repeat TOKENS t
                    let quad{t}{j} = inputs[({t}u * 8u{+j}) * ROW + at];
                    high{t} += products4(a0{j}, a1{j}, a2{j}, a3{j}, quad{t}{j}.x);
                    low{t} += products4(a0{j}, a1{j}, a2{j}, a3{j}, quad{t}{j}.y);
                    //!end
                    //!end
                    //!repeat TOKENS t
                    let lower{t} = 256 * high{t} + low{t};
                    if TWO_SCALES {
                        high{t} = vec4(0i);
                        low{t} = vec4(0i);
                    }
                    //!end
                    //!repeat 4..8 j
                    //!repeat 4 i
                    let a{i}{j} = bits_bytes(bits{i}, {j}u);
                    //!end
                    //!repeat TOKENS t
                    let quad{t}{j} = inputs[({t}u * 8u{+j}) * ROW + at];
                    high{t} += products4(a0{j}, a1{j}, a2{j}, a3{j}, quad{t}{j}.x);
                    low{t} += products4(a0{j}, a1{j}, a2{j}, a3{j}, quad{t}{j}.y);
                    //!end
                    //!end
                    //!repeat TOKENS t
                    // Of the unit's second half where that has a scale of its own, else of all of it.
                    let upper{t} = 256 * high{t} + low{t};
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
                            * vec4<f32>(upper{t});
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
        sums{t} = team_sum(sums{t});
        if sharing > 1u && part == 0u {
            shares[{t}u * TEAMS + team] = sums{t};
        }
        if turn == 0u {
            // Another token's norm is summed where this one's is read.
            workgroupBarrier();
            factor{t} = input_factor(lane, {t}u);
        }
        //!end
        if sharing > 1u {
            workgroupBarrier();
        }
        // A lane a token, so that what writes is there once.
        var sum = sums0;
        var factor = factor0;
        //!repeat 1..TOKENS t
        if part == {t}u {
            sum = sums{t};
            factor = factor{t};
        }
        //!end
        let token = first_token + part;
        if part < TOKENS && token < tokens && share == 0u && row < matrix.rows && is_here {
            for (var other = 1u; other < sharing; other++) {
                sum += shares[part * TEAMS + team + other];
            }
            output4(batch_y(token, group.z), row, sum * factor);
        }
        if sharing > 1u && matrix.turns > 1u {
            workgroupBarrier();
        }
        row += rows_at_once;
    }
}

// Quad i of a portion, if it is one, for the workgroup's given token. Every lane must call. Largest by their bits: that finds NaN
// and infinities, whose scale makes all that they are part of no number.
fn quantise(values: vec4<f32>, i: u32, token: u32, is_here: bool) {
    var most = larger_magnitude(0u, values);
    most = max(most, subgroupShuffleXor(most, 1u));
    most = max(most, subgroupShuffleXor(most, 2u));
    most = max(most, subgroupShuffleXor(most, 4u));
    let largest = bitcast<f32>(max(most, bitcast<u32>(LEAST)));
    let integers = integers_of(values * (LARGEST / largest));
    let high = (integers + 128) >> vec4(8u);
    if is_here {
        inputs[(token * 8u + i % 8u) * ROW + i / 8u] = vec2(pack4xI8(high), pack4xI8(integers - high * 256));
    }
    var sum = integers.x + integers.y + integers.z + integers.w;
    sum += subgroupShuffleXor(sum, 1u);
    sum += subgroupShuffleXor(sum, 2u);
    sum += subgroupShuffleXor(sum, 4u);
    if is_here && i % 8u == 0u {
        let sigma = largest / LARGEST;
        terms[token * PORTION + i / 8u] = vec2(sigma, sigma * f32(sum));
    }
}

// Products of four rows' quads with bytes of an input's.
fn products4(a: u32, b: u32, c: u32, d: u32, x: u32) -> vec4<i32> {
    return vec4(dot4I8Packed(a, x), dot4I8Packed(b, x), dot4I8Packed(c, x), dot4I8Packed(d, x));
}

// A team's lanes are consecutive, as many as a power of two.
fn team_sum(own: vec4<f32>) -> vec4<f32> {
    var sum = own;
    for (var distance = 1u; distance < LANES; distance *= 2u) {
        sum += subgroupShuffleXor(sum, distance);
    }
    return sum;
}
