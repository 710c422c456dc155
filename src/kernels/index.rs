//! `shaders/index`.

use super::attend::{kv_spec, spec};
use crate::attention::Shape;
use crate::gpu::ShaderSpec;

/// `stats_tokens`: how many positions of a sequence count. Grid: (KV heads, spans, group + 1).
pub fn channel_stats(shape: &Shape, stats_tokens: u32) -> ShaderSpec {
    kv_spec("index/channel_stats.wgsl", shape).constant("STATS_TOKENS", stats_tokens)
}

/// Grid: (KV heads).
pub fn choose_channels(shape: &Shape) -> ShaderSpec {
    spec("index/choose_channels.wgsl", shape)
        .constant("CHANNELS", shape.index.channels)
        .constant("ROPE_INTERLEAVED", shape.rope_interleaved)
}

/// Grid: (KV heads, closing blocks).
pub fn token_codes(shape: &Shape) -> ShaderSpec {
    kv_spec("index/token_codes.wgsl", shape)
        .constant("CHANNELS", shape.index.channels)
        .constant("BITS", shape.index.bits)
}

/// Grid: (KV heads, closing blocks).
pub fn block_bounds(shape: &Shape) -> ShaderSpec {
    kv_spec("index/block_bounds.wgsl", shape)
}
