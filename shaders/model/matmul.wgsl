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
    //!repeat 4 i
    let row{i} = (first + min(stage_row{+i}, last_row)) * matrix.units;
    //!end
    //!repeat 4 i
    let x{i}_at = token_x(batch, min(stage_token{+i}, tokens - 1u));
    //!end

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
        //!repeat 4 i
        let w{i} = unit_quad(row{i} + unit, inner);
        //!end
        //!repeat 4 i
        let x{i} = x[x{i}_at + k / 4u];
        //!end
        workgroupBarrier();
        let at = column_quad * 64u + quad;
        //!repeat 4 i
        w_tile[at{+16*i}] = vec4(w0.{xyzw[i]}, w1.{xyzw[i]}, w2.{xyzw[i]}, w3.{xyzw[i]});
        //!end
        //!repeat 4 i
        x_tile[at{+16*i}] = vec4(x0.{xyzw[i]}, x1.{xyzw[i]}, x2.{xyzw[i]}, x3.{xyzw[i]});
        //!end
        workgroupBarrier();
        for (var c = 0u; c < DEPTH; c++) {
            let w_lo = w_tile[c * 16u + row_at * 2u];
            let w_hi = w_tile[c * 16u + row_at * 2u + 1u];
            let x_lo = x_tile[c * 16u + token_at * 2u];
            let x_hi = x_tile[c * 16u + token_at * 2u + 1u];
            //!repeat 4 t
            acc_lo[{t}] += w_lo * x_lo.{xyzw[t]};
            acc_hi[{t}] += w_hi * x_lo.{xyzw[t]};
            //!end
            //!repeat 4 t
            acc_lo[{t+4}] += w_lo * x_hi.{xyzw[t]};
            acc_hi[{t+4}] += w_hi * x_hi.{xyzw[t]};
            //!end
        }
    }
    // Constant indices: an accumulator indexed by a loop that is not unrolled would live in memory, not registers.
    let row = row_base + row_at * 8u;
    let token = token_base + token_at * 8u;
    //!repeat 8 t
    output8(batch, token{+t}, row, tokens, acc_lo[{t}], acc_hi[{t}]);
    //!end
}
