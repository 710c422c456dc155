//! `shaders/select`.

use super::attend::{kv_spec, spec};
use crate::attention::Shape;
use crate::gpu::{ShaderSpec, Tier};

/// Grid: (query heads, rows).
pub fn query_codes(shape: &Shape) -> ShaderSpec {
    spec("select/query_codes.wgsl", shape)
        .constant("CHANNELS", Shape::CHANNELS)
        .constant("SCALE", shape.scale())
}

/// Grid: (ceil(closed blocks / 4), KV heads, rows).
pub fn block_score(shape: &Shape) -> ShaderSpec {
    kv_spec("select/block_score.wgsl", shape).constant("CHANNELS", Shape::CHANNELS)
}

/// Grid: (ceil(blocks kept / 4), KV heads, rows).
pub fn token_score(shape: &Shape) -> ShaderSpec {
    kv_spec("select/token_score.wgsl", shape).constant("CHANNELS", Shape::CHANNELS)
}

/// Level 1's top-k. Grid: (KV heads, rows).
pub fn top_k_blocks(tier: &Tier, shape: &Shape) -> ShaderSpec {
    spec("select/top_k.wgsl", shape)
        .slot("items", "lib/items_blocks.wgsl")
        .constant("LANES", tier.lanes)
}

/// Level 2's top-k. Grid: (KV heads, rows).
pub fn top_k_tokens(tier: &Tier, shape: &Shape) -> ShaderSpec {
    spec("select/top_k.wgsl", shape)
        .slot("items", "lib/items_tokens.wgsl")
        .constant("LANES", tier.lanes)
}
