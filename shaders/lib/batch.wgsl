// One of the matrices that a few tokens are multiplied by (matvec). What includes this says too whether a result IS_SUM of several
// matrices' products: then what a turn leaves in memory is of the last one, not of the next turn's first.
struct Batch {
    // Whether the matrix is in this part.
    here: bool,
    // Its first row in this part.
    row: u32,
    // Where its input begins, in vec4.
    x: u32,
    // The factor of its product.
    factor: f32,
}
