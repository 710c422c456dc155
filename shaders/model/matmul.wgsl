// y[token] (op)= W x[token] for many tokens: prefill. A workgroup makes 64 rows x 64 tokens; each of its 64 lanes an
// 8 x 8 tile as outer products, from 16 columns of W and x at a time in workgroup memory, transposed so that four
// rows (or tokens) are one vec4. Grid: (ceil(rows / 64), ceil(tokens / 64), batches).
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include lib/matrix.wgsl
//!include <weights>
//!include <tokens>
//!include <output>
//!include lib/output8.wgsl

const WORKGROUP: u32 = 64u;
const DEPTH: u32 = 16u;

// [column][16 quads of rows], [column][16 quads of tokens]
var<workgroup> w_tile: array<vec4<f32>, 256>;
var<workgroup> x_tile: array<vec4<f32>, 256>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = lane_of(local, WORKGROUP);
    let batch = group.z;
    let tokens = token_count(batch);
    let row_base = group.x * 64u;
    let token_base = group.y * 64u;
    if token_base >= tokens {
        return;
    }
    let first = token_rows(batch);
    let columns = matrix.units * 32u;
    let last_row = matrix.rows - 1u;

    // Staging: this lane's quad of rows (tokens) and quad of columns.
    let quad = lane / 4u;
    let column_quad = lane % 4u;
    let stage_row = row_base + quad * 4u;
    let stage_token = token_base + quad * 4u;
    let row0 = (first + min(stage_row, last_row)) * matrix.units;
    let row1 = (first + min(stage_row + 1u, last_row)) * matrix.units;
    let row2 = (first + min(stage_row + 2u, last_row)) * matrix.units;
    let row3 = (first + min(stage_row + 3u, last_row)) * matrix.units;
    let x0_at = token_x(batch, min(stage_token, tokens - 1u));
    let x1_at = token_x(batch, min(stage_token + 1u, tokens - 1u));
    let x2_at = token_x(batch, min(stage_token + 2u, tokens - 1u));
    let x3_at = token_x(batch, min(stage_token + 3u, tokens - 1u));

    // Computing: 8 rows from row_at, 8 tokens from token_at.
    let row_at = lane % 8u;
    let token_at = lane / 8u;
    // acc_lo[t], acc_hi[t]: rows 0..3 and 4..7 of token t.
    var acc_lo = array<vec4<f32>, 8>();
    var acc_hi = array<vec4<f32>, 8>();

    for (var column = 0u; column < columns; column += DEPTH) {
        let k = column + column_quad * 4u;
        let unit = k / 32u;
        let inner = (k % 32u) / 4u;
        let w0 = unit_quad(row0 + unit, inner);
        let w1 = unit_quad(row1 + unit, inner);
        let w2 = unit_quad(row2 + unit, inner);
        let w3 = unit_quad(row3 + unit, inner);
        let x0 = x[x0_at + k / 4u];
        let x1 = x[x1_at + k / 4u];
        let x2 = x[x2_at + k / 4u];
        let x3 = x[x3_at + k / 4u];
        workgroupBarrier();
        let at = column_quad * 64u + quad;
        w_tile[at] = vec4(w0.x, w1.x, w2.x, w3.x);
        w_tile[at + 16u] = vec4(w0.y, w1.y, w2.y, w3.y);
        w_tile[at + 32u] = vec4(w0.z, w1.z, w2.z, w3.z);
        w_tile[at + 48u] = vec4(w0.w, w1.w, w2.w, w3.w);
        x_tile[at] = vec4(x0.x, x1.x, x2.x, x3.x);
        x_tile[at + 16u] = vec4(x0.y, x1.y, x2.y, x3.y);
        x_tile[at + 32u] = vec4(x0.z, x1.z, x2.z, x3.z);
        x_tile[at + 48u] = vec4(x0.w, x1.w, x2.w, x3.w);
        workgroupBarrier();
        for (var c = 0u; c < DEPTH; c++) {
            let w_lo = w_tile[c * 16u + row_at * 2u];
            let w_hi = w_tile[c * 16u + row_at * 2u + 1u];
            let x_lo = x_tile[c * 16u + token_at * 2u];
            let x_hi = x_tile[c * 16u + token_at * 2u + 1u];
            acc_lo[0] += w_lo * x_lo.x;
            acc_hi[0] += w_hi * x_lo.x;
            acc_lo[1] += w_lo * x_lo.y;
            acc_hi[1] += w_hi * x_lo.y;
            acc_lo[2] += w_lo * x_lo.z;
            acc_hi[2] += w_hi * x_lo.z;
            acc_lo[3] += w_lo * x_lo.w;
            acc_hi[3] += w_hi * x_lo.w;
            acc_lo[4] += w_lo * x_hi.x;
            acc_hi[4] += w_hi * x_hi.x;
            acc_lo[5] += w_lo * x_hi.y;
            acc_hi[5] += w_hi * x_hi.y;
            acc_lo[6] += w_lo * x_hi.z;
            acc_hi[6] += w_hi * x_hi.z;
            acc_lo[7] += w_lo * x_hi.w;
            acc_hi[7] += w_hi * x_hi.w;
        }
    }
    // Constant indices: an accumulator indexed by a loop that is not unrolled would live in memory, not registers.
    let row = row_base + row_at * 8u;
    let token = token_base + token_at * 8u;
    output8(batch, token, row, tokens, acc_lo[0], acc_hi[0]);
    output8(batch, token + 1u, row, tokens, acc_lo[1], acc_hi[1]);
    output8(batch, token + 2u, row, tokens, acc_lo[2], acc_hi[2]);
    output8(batch, token + 3u, row, tokens, acc_lo[3], acc_hi[3]);
    output8(batch, token + 4u, row, tokens, acc_lo[4], acc_hi[4]);
    output8(batch, token + 5u, row, tokens, acc_lo[5], acc_hi[5]);
    output8(batch, token + 6u, row, tokens, acc_lo[6], acc_hi[6]);
    output8(batch, token + 7u, row, tokens, acc_lo[7], acc_hi[7]);
}
