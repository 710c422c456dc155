// Keys and values apart, for kernels that read both, eight numbers at a time.
//!include lib/kv_apart.wgsl

@group(0) @binding(7) var<storage, read> values_in: array<vec4<u32>>;
