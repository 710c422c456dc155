// The common part of products, whatever their inputs are: y (op)= W x for one part of a weight matrix.
struct Matrix {
    // Units of 32 weights in a row of W.
    units: u32,
    // Rows of W in this part; of a batched product, rows of each matrix.
    rows: u32,
    // Row of the whole matrix that this part begins with.
    first_row: u32,
    // Length of one token's input and output, in floats.
    x_stride: u32,
    y_stride: u32,
    // Of a batched product: the matrices in this part, and the length of one matrix's input and output.
    first_batch: u32,
    batches: u32,
    x_batch: u32,
    y_batch: u32,
    // Where weights become f16 (f16_scale.wgsl): what they are shifted by.
    weight_shift: i32,
    // What becomes of the product, for output_any.wgsl: Output::kind.
    output: u32,
    // Of matvec's kernels: floats of an input that are normed, or none, and what is added to their mean square.
    normed: u32,
    epsilon: f32,
    // Of matvec_quants: the teams that have the same rows, 2 to this power, and how often a workgroup takes rows.
    share_bits: u32,
    turns: u32,
}

@group(0) @binding(1) var<uniform> matrix: Matrix;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;
