// Matrix-vector and matrix-matrix products of floats: their common part.
//!include lib/product.wgsl
@group(0) @binding(4) var<storage, read> x: array<vec4<f32>>;
