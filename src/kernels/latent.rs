//! Latent attention's kernels in `shaders/kv`.

use super::SegmentParams;
use super::attend::kv_spec;
use crate::attention::Latent;
use crate::attention::Shape;
use crate::gpu::ShaderSpec;

crate::bindings! {
    /// Of [`latent_append`].
    pub struct LatentAppend {
        /// The step, whose block tables name the blocks that rows are appended to.
        step: read,
        /// The segment that `kv` is.
        segment: uniform SegmentParams,
        /// \[row\]\[head\]\[dimensions that are not turned, those that are\], f32: turned in place.
        queries: write,
        /// \[row\], as [`down_row`] has it, f32.
        down: read,
        /// \[latent\], f32: weights of the norm of the latent of keys and values.
        weight: read,
        /// \[row\]\[heads, the cached row\]\[dimension\], f32: what absorbed attention reads.
        latents: write,
        /// The segment: \[block\]\[token\]\[dimension\], f16 in pairs.
        kv: write,
    }

    /// Of [`latent_gather`].
    pub struct LatentGather {
        /// The step, of whose first sequence the slab is.
        step: read,
        /// The segment that `kv` is.
        segment: uniform SegmentParams,
        /// The logical blocks of the slab.
        slab: uniform SegmentParams,
        /// As in [`LatentAppend`].
        kv: read,
        /// \[token of the slab\]\[latent\], f32.
        latents: write,
        /// \[token of the slab\]\[dimension that is turned\], f32.
        shared_keys: write,
    }

    /// Of [`latent_place`].
    pub struct LatentPlace {
        /// \[token\]\[keys of all heads, values of all heads\], f32; keys without the dimensions that are turned.
        made: read,
        /// As in [`LatentGather`].
        shared_keys: read,
        /// \[block\]\[head\]\[keys, values\]\[token\]\[dimension\], f16 in pairs.
        kv: write,
    }
}

/// Grid: (heads + 1, rows).
pub fn latent_append(shape: &Shape, latent: &Latent) -> ShaderSpec {
    let (latent_at, stride) = down_row(latent);
    kv_spec("kv/latent_append.wgsl", shape)
        .constant("NOPE", latent.nope)
        .constant("EPSILON", latent.epsilon)
        .constant("LATENT_AT", latent_at)
        .constant("DOWN_STRIDE", stride)
}

/// A row of what hidden states are projected down to: where the latent of keys and values begins, after that of queries, and
/// how many floats it is from one row to the next, padded to whole units of weights.
pub fn down_row(latent: &Latent) -> (u32, u32) {
    (latent.q_rank, (latent.q_rank + latent.kv_rank + latent.rope).next_multiple_of(32))
}

/// Grid: (tokens of a slab).
pub fn latent_gather(shape: &Shape) -> ShaderSpec {
    kv_spec("kv/latent_gather.wgsl", shape)
}

/// `shape`: that of prefill. Grid: (heads, tokens of a slab).
pub fn latent_place(shape: &Shape, latent: &Latent) -> ShaderSpec {
    kv_spec("kv/latent_place.wgsl", shape).constant("NOPE", latent.nope)
}
