//! `shaders/index`.

use super::SegmentParams;
use super::attend::{kv_spec, spec};
use crate::attention::{Shape, Summary};
use crate::gpu::ShaderSpec;

crate::words! {
    /// `Freeze` of `index/choose_channels.wgsl`.
    pub struct FreezeParams {
        /// The slot of the sequence whose channels are chosen.
        pub sequence: u32,
    }
}

crate::bindings! {
    /// Of [`channel_stats`].
    pub struct ChannelStats {
        /// The step.
        step: read,
        /// \[row\]\[query heads, key heads, value heads\]\[dimension\], f32.
        qkv: read,
        /// \[sequence slot\]\[KV head\]\[queries of the group, the key\]\[dimension\], f32: largest magnitudes.
        stats: write,
    }

    /// Of [`choose_channels`].
    pub struct ChooseChannels {
        /// The step, which is not read.
        step: read,
        /// The sequence.
        freeze: uniform FreezeParams,
        /// As in [`ChannelStats`].
        stats: read,
        /// \[sequence slot\]\[KV head\]\[channel\]: dimensions.
        channels: write,
    }

    /// Of [`token_codes`].
    pub struct TokenCodes {
        /// The step, which names the blocks.
        step: read,
        /// The segment that `kv` is.
        segment: uniform SegmentParams,
        /// \[block\]\[KV head\]\[keys, values\]\[token\]\[dimension\], f16 in pairs.
        kv: read,
        /// As in [`ChooseChannels`].
        channels: read,
        /// \[block\]\[KV head\]: minimum and scale of each channel, f16, then each token's codes.
        codes: write,
        /// The segment of the index that `codes` is, which is divided otherwise than keys and values.
        index_segment: uniform SegmentParams,
    }

    /// Of [`block_summary`].
    pub struct BlockSummary {
        /// As in [`TokenCodes`].
        step: read,
        /// As in [`TokenCodes`].
        segment: uniform SegmentParams,
        /// As in [`TokenCodes`].
        kv: read,
        /// \[block\]\[KV head\]\[row of the summary\]\[dimension\], f16 in pairs.
        summary: write,
        /// The segment of the index that `summary` is.
        index_segment: uniform SegmentParams,
    }
}

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

/// Grid: (KV heads, blocks to seal).
pub fn token_codes(shape: &Shape) -> ShaderSpec {
    kv_spec("index/token_codes.wgsl", shape)
        .constant("CHANNELS", shape.index.channels)
        .constant("BITS", shape.index.bits)
}

/// Grid: (KV heads, blocks to seal).
pub fn block_summary(shape: &Shape, summary: &Summary) -> ShaderSpec {
    kv_spec("index/block_summary.wgsl", shape)
        .slot("summarise", summary.summarise)
        .constant("SUMMARY_ROWS", summary.rows)
}
