//! Latent attention's kernels in `shaders/kv`.

use super::attend::kv_spec;
use crate::attention::Shape;
use crate::gpu::ShaderSpec;
use crate::model::config::Latent;

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
