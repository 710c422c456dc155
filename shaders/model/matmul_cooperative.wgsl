// The product of matmul.wgsl on matrix units: cooperative matrices of 16 x 16 f16, summed in f32. A workgroup makes 128 rows
// x 128 tokens; each of its eight subgroups 64 rows x 32 tokens, from a unit of 32 columns at a time in workgroup memory, of
// which there are two tiles: while one is multiplied, the next unit is loaded. Grid: (ceil(rows / 128), ceil(tokens / 128),
// batches).
//
// Range and precision: both operands are rounded to f16, 2^-11 of themselves. Before that a token's inputs are shifted by a
// power of two of their own (half_rows.wgsl), and a part's weights by one of theirs (largest_weight.wgsl), so that
// the largest of each fits with a factor of two to spare (f16_scale.wgsl): nothing finite becomes infinite. Products of f16
// are exact in f32, and the sum of all is below 2^30 columns. Sums are shifted back by powers of two, which is exact.
enable f16;
enable wgpu_cooperative_matrix;
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include lib/product.wgsl
//!include lib/f16_scale.wgsl
//!include <weights>
//!include <tokens>
//!include <output>
//!include lib/output8.wgsl

// Rows of half_rows.wgsl.
@group(0) @binding(4) var<storage, read> x: array<vec4<f16>>;

const WORKGROUP: u32 = 256u;
// From one row (token) of a tile to the next, in vec4: a unit, and two more, so that eight rows lie in different banks.
const ROW: u32 = 10u;
const TILE: u32 = 128u * ROW;
// Sixteen rows (tokens) further.
const SIXTEEN: u32 = 16u * ROW;

// [2 tiles][128 rows][ROW], [2 tiles][128 tokens][ROW]
var<workgroup> w_tiles: array<vec4<f16>, 2u * TILE>;
var<workgroup> x_tiles: array<vec4<f16>, 2u * TILE>;
// Of each subgroup, sums of [16 tokens][4 quads of rows].
var<workgroup> sums: array<vec4<f32>, 512>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) member: u32,
) {
    let lane = lane_of(local, WORKGROUP);
    let batch = group.z;
    // By way of workgroup memory, so that the compiler knows that all lanes end here or none does: matrices are of all lanes.
    if lane == 0u {
        sums[0] = vec4(f32(token_count(batch)));
    }
    let tokens = u32(workgroupUniformLoad(&sums[0]).x);
    // Workgroups that run at a time take all tokens of few rows: weights come from memory once, inputs from the cache.
    let tile_number = group.y * groups.x + group.x;
    let row_base = tile_number / groups.y * 128u;
    let token_base = tile_number % groups.y * 128u;
    if token_base >= tokens {
        return;
    }
    let first = token_rows(batch);
    let last_row = matrix.rows - 1u;

    // Staging: eight columns of a row, and of the one 64 further.
    let staged = lane / 4u;
    let quad = lane % 4u * 2u;
    let near_row = (first + min(row_base + staged, last_row)) * matrix.units;
    let far_row = (first + min(row_base + staged + 64u, last_row)) * matrix.units;
    let stage_at = staged * ROW + quad;
    let shrink = power_of_two(-matrix.weight_shift);
    // Four columns of each of four tokens: neighbouring lanes have neighbouring columns, so that a load meets few cache lines.
    let x_row = lane / 8u;
    let x_vec = lane % 8u;
    let x_stage_at = x_row * ROW + x_vec;
    //!repeat 4 i
    let x_at{i} = 2u * token_x(batch, min(token_base + x_row{+32*i}, tokens - 1u)) + x_vec;
    //!end

    // Computing: 64 rows from row_at, 32 tokens from token_at.
    let row_at = subgroup % 2u * 64u;
    let token_at = subgroup / 2u * 32u;
    // Sums of [16 rows][16 tokens]: s<rows><tokens>.
    //!repeat 4 r
    var s{r}0: coop_mat16x16<f32, C>;
    var s{r}1: coop_mat16x16<f32, C>;
    //!end

    var w0 = unit_quad(near_row, quad);
    var w1 = unit_quad(near_row, quad + 1u);
    var w2 = unit_quad(far_row, quad);
    var w3 = unit_quad(far_row, quad + 1u);
    //!repeat 4 i
    var x{i} = x[x_at{i}];
    //!end
    for (var unit = 0u; unit < matrix.units; unit++) {
        let tile = unit % 2u * TILE;
        let to = tile + stage_at;
        w_tiles[to] = vec4<f16>(w0 * shrink);
        w_tiles[to + 1u] = vec4<f16>(w1 * shrink);
        w_tiles[to + 64u * ROW] = vec4<f16>(w2 * shrink);
        w_tiles[to + 64u * ROW + 1u] = vec4<f16>(w3 * shrink);
        //!repeat 4 i
        x_tiles[tile + x_stage_at + {32*i}u * ROW] = x{i};
        //!end
        // Also keeps those that are ahead from the tile that others still multiply: it is the other one.
        workgroupBarrier();
        // The last unit is loaded once more rather than one beyond it.
        let next = min(unit + 1u, matrix.units - 1u);
        w0 = unit_quad(near_row + next, quad);
        w1 = unit_quad(near_row + next, quad + 1u);
        w2 = unit_quad(far_row + next, quad);
        w3 = unit_quad(far_row + next, quad + 1u);
        //!repeat 4 i
        x{i} = x[x_at{i} + next * 8u];
        //!end
        // Sixteen columns at a time. Sums have names: in an array that a loop indexes they could live in memory.
        for (var k = 0u; k < 8u; k += 4u) {
            let w_at = tile + row_at * ROW + k;
            let x_at = tile + token_at * ROW + k;
            let b0 = coopLoad<coop_mat16x16<f16, B>>(&x_tiles[x_at], ROW);
            let b1 = coopLoad<coop_mat16x16<f16, B>>(&x_tiles[x_at + SIXTEEN], ROW);
            //!repeat 4 r
            let a{r} = coopLoadT<coop_mat16x16<f16, A>>(&w_tiles[w_at{+r*SIXTEEN}], ROW);
            s{r}0 = coopMultiplyAdd(a{r}, b0, s{r}0);
            s{r}1 = coopMultiplyAdd(a{r}, b1, s{r}1);
            //!end
        }
    }

    // Sixteen tokens' sums of sixteen rows at a time go through workgroup memory; a lane writes eight rows of a token.
    let own = subgroup * 64u;
    let place = Place(batch, tokens, row_base + row_at + member % 2u * 8u, token_base + token_at + member / 2u);
    let stored = own + member * 2u;
    //!repeat 4 r
    //!repeat 2 t
    coopStore(s{r}{t}, &sums[own], 4u);
    write(place, {16*r}u, {16*t}u, stored);
    //!end
    //!end
}

// Where a lane's first eight rows of a token belong.
struct Place {
    batch: u32,
    tokens: u32,
    row: u32,
    token: u32,
}

// Writes what the subgroups have just stored, of rows and a token further on.
fn write(place: Place, rows: u32, tokens: u32, stored: u32) {
    workgroupBarrier();
    let token = place.token + tokens;
    let shift_at = 2u * token_x(place.batch, min(token, place.tokens - 1u)) + matrix.units * 8u;
    let x_factor = power_of_two(i32(x[shift_at].x));
    let w_factor = power_of_two(matrix.weight_shift);
    let low = scaled_back(sums[stored], x_factor, w_factor);
    let high = scaled_back(sums[stored + 1u], x_factor, w_factor);
    output8(place.batch, token, place.row + rows, place.tokens, low, high);
    workgroupBarrier();
}
