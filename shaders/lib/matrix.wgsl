// What matrix-vector and matrix-matrix products share: y[token] (op)= W x[token] for one part of a weight matrix.
struct Matrix {
    // Units of 32 weights in a row of W.
    units: u32,
    // Rows of W in this part.
    rows: u32,
    // Row of the whole matrix that this part begins with.
    first_row: u32,
    // Length of one token's input and output, in floats.
    x_stride: u32,
    y_stride: u32,
}

@group(0) @binding(1) var<uniform> matrix: Matrix;
@group(0) @binding(4) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;
