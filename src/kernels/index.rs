//! `shaders/index`.

use super::attend::{kv_spec, spec};
use crate::attention::Shape;
use crate::gpu::ShaderSpec;

/// Grid: (KV heads, spans).
pub fn channel_stats(shape: &Shape) -> ShaderSpec {
    kv_spec("index/channel_stats.wgsl", shape).constant("STATS_TOKENS", Shape::STATS_TOKENS)
}

/// Grid: (KV heads).
pub fn choose_channels(shape: &Shape) -> ShaderSpec {
    spec("index/choose_channels.wgsl", shape)
        .constant("CHANNELS", Shape::CHANNELS)
        .constant("ROPE_INTERLEAVED", shape.rope_interleaved)
}

/// Grid: (KV heads, closing blocks).
pub fn token_codes(shape: &Shape) -> ShaderSpec {
    kv_spec("index/token_codes.wgsl", shape).constant("CHANNELS", Shape::CHANNELS)
}
