//! What memory gives a kernel that only reads.

use crate::bindings;
use crate::gpu::ShaderSpec;

bindings! {
    /// Of [`stream`].
    pub struct Stream {
        /// What is read, in whole vec4.
        data: read,
        /// \[workgroup\]\[256\]: sums of words.
        sums: write,
    }
}

/// vec4 that a workgroup of [`stream`] reads.
pub const STREAM_VECS: u32 = 4096;

/// Sums of a buffer. Grid: (vec4 / [`STREAM_VECS`]).
pub fn stream() -> ShaderSpec {
    ShaderSpec::new("measure/stream.wgsl")
}
