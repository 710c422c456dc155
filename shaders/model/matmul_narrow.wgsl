// The product of matmul_cooperative.wgsl for a few tokens, which reads the weights once. A workgroup makes ROWS rows x TOKENS tokens
// from four units of 32 columns at a time in workgroup memory: small tiles, so that many workgroups take turns at memory and at
// matrix units. Two subgroups have the same sixteen rows, each with half of each of the four units.
// Grid: (ceil(rows / ROWS), ceil(tokens / TOKENS)).
//
// Range and precision: as in matmul_cooperative.wgsl.
enable f16;
enable wgpu_cooperative_matrix;
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include lib/product.wgsl
//!include lib/f16_scale.wgsl
//!include <weights>
//!include <quads>
//!include lib/tokens_all.wgsl
//!include <output>

// Rows of half_rows.wgsl.
@group(0) @binding(4) var<storage, read> x: array<vec4<f16>>;

const ROWS: u32 = 16u * ROW_SIXTEENS;
const TOKENS: u32 = 16u * TOKEN_SIXTEENS;
const UNITS: u32 = 4u;
// A lane has one unit of one row, and of tokens INPUTS quarters of a unit.
const WORKGROUP: u32 = ROWS * UNITS;
const QUARTERS: u32 = UNITS * 4u;
// From one row (token) of a tile to the next, in vec4: the units, and two more, so that eight rows lie in different banks.
const ROW: u32 = UNITS * 8u + 2u;
const SIXTEEN: u32 = 16u * ROW;
// From the first halves of the units to the second ones, in vec4.
const HALF: u32 = UNITS * 4u;

// [ROWS, then TOKENS][ROW]: columns in the order of `column`.
var<workgroup> tile: array<vec4<f16>, (ROWS + TOKENS) * ROW>;
// Of each subgroup, sums of [16 tokens][4 quads of rows].
var<workgroup> sums: array<vec4<f32>, 2u * WORKGROUP>;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(subgroup_id) number: u32,
    @builtin(subgroup_invocation_id) member: u32,
) {
    // Reversed, subgroups change places; their lanes stay in order, since matrices are of all of them.
    let subgroup = lane_of(number, WORKGROUP / 32u);
    let lane = subgroup * 32u + member;
    let tokens = token_count(0u);
    let row_base = group.x * ROWS;
    let token_base = group.y * TOKENS;
    let last = matrix.units - 1u;
    let shrink = power_of_two(-matrix.weight_shift);

    // Staging.
    let own = lane % UNITS;
    let row = min(row_base + lane / UNITS, matrix.rows - 1u) * matrix.units;
    let weights_to = lane / UNITS * ROW + column(own, 0u);
    //!repeat INPUTS i
    let token{i} = (lane{+i*WORKGROUP}) / QUARTERS;
    let quarter{i} = (lane{+i*WORKGROUP}) % QUARTERS;
    let input{i} = 2u * token_x(0u, min(token_base + token{i}, tokens - 1u)) + quarter{i} % 4u * 2u;
    let inputs_to{i} = (ROWS + token{i}) * ROW + column(quarter{i} / 4u, quarter{i} % 4u * 2u);
    //!end
    // Computing.
    let w_at = subgroup / 2u * SIXTEEN + subgroup % 2u * HALF;
    let x_at = ROWS * ROW + subgroup % 2u * HALF;

    // Sums of [16 rows][16 tokens].
    //!repeat TOKEN_SIXTEENS t
    var s{t}: coop_mat16x16<f32, C>;
    //!end

    // What is multiplied in a turn was asked for two turns before; of weights that are floats, inputs alone, since those are loaded as
    // they are used. Beyond a row its last unit is read once more, and its weights count as zero.
    //!repeat 2 d
    var bits{d} = unit_bits(row + min(own{+d*UNITS}, last));
    //!repeat INPUTS i
    var x{d}_{i} = x[input{i} + min(quarter{i} / 4u{+d*UNITS}, last) * 8u];
    var y{d}_{i} = x[input{i} + min(quarter{i} / 4u{+d*UNITS}, last) * 8u + 1u];
    //!end
    //!end
    for (var first = 0u; first <= last; first += 2u * UNITS) {
        //!repeat 2 d
        let factors{d} = select(vec3(0.0), bits_factors(bits{d}) * shrink, first + own{+d*UNITS} <= last);
        //!repeat 8 j
        tile[weights_to + column(0u, {j}u)] = quad_halves(bits{d}, factors{d}, {j}u);
        //!end
        let next{d} = first + 2u * UNITS{+d*UNITS};
        bits{d} = unit_bits(row + min(next{d} + own, last));
        //!repeat INPUTS i
        // In the order of quad_halves.
        tile[inputs_to{i}] = x{d}_{i}.xzyw;
        tile[inputs_to{i} + column(0u, 1u)] = y{d}_{i}.xzyw;
        x{d}_{i} = x[input{i} + min(next{d} + quarter{i} / 4u, last) * 8u];
        y{d}_{i} = x[input{i} + min(next{d} + quarter{i} / 4u, last) * 8u + 1u];
        //!end
        workgroupBarrier();
        for (var k = 0u; k < HALF; k += 4u) {
            let a = coopLoadT<coop_mat16x16<f16, A>>(&tile[w_at + k], ROW);
            //!repeat TOKEN_SIXTEENS t
            s{t} = coopMultiplyAdd(a, coopLoad<coop_mat16x16<f16, B>>(&tile[x_at + {t}u * SIXTEEN + k], ROW), s{t});
            //!end
        }
        workgroupBarrier();
        //!end
    }

    // Sixteen tokens' sums at a time go through workgroup memory; a lane writes four rows of a token.
    //!repeat TOKEN_SIXTEENS t
    coopStore(s{t}, &sums[subgroup * 64u], 4u);
    workgroupBarrier();
    write(lane, row_base, token_base + {16*t}u, tokens);
    workgroupBarrier();
    //!end
}

// Where four columns of the tile lie, quad 0 to 7 of a unit: in an order, the same for rows and tokens, in which lanes that
// write the same quad of neighbouring units use different banks.
fn column(unit: u32, quad: u32) -> u32 {
    return unit % 2u + quad % 4u * 2u + unit / 2u * 8u + quad / 4u * 16u;
}

// Writes what the subgroups have just stored, of all rows and sixteen tokens: a lane four rows of a token.
fn write(lane: u32, first_row: u32, first_token: u32, tokens: u32) {
    let place = lane % 64u;
    let both = lane / 64u * 128u + place;
    let row = first_row + lane / 64u * 16u + place % 4u * 4u;
    let token = first_token + place / 4u;
    if row < matrix.rows && token < tokens {
        let w_factor = power_of_two(matrix.weight_shift);
        let x_factor = power_of_two(i32(x[2u * token_x(0u, token) + matrix.units * 8u].x));
        let sum = sums[both] + sums[both + 64u];
        output4(token_y(0u, token), row, scaled_back(sum, x_factor, w_factor));
    }
}
