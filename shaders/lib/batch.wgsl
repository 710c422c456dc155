// One of the matrices that a few tokens are multiplied by (matvec).
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
