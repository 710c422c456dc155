//! `shaders/select`.

use super::attend::{HotSlots, kv_spec, spec};
use crate::attention::{BlockScorer, Shape};
use crate::gpu::{ShaderSpec, Tier};

/// Blocks that one workgroup of [`block_score`] or [`token_score`] scores: as many as 128 lanes and the workgroup memory that
/// every adapter has allow, since large groups of queries on many channels take much of it.
pub fn scored_blocks(shape: &Shape) -> u32 {
    let channels = shape.index.channels;
    let group = shape.group;
    // Queries; per block its steps and flag, and per query of it lanes' pairs, codes and terms.
    let kept = group * channels * 4;
    let a_block = channels * 4 + 4 + group * (16 * 8 + channels + 8);
    [8, 4, 2, 1].into_iter().find(|blocks| kept + blocks * a_block <= 16 << 10).unwrap_or(1)
}

/// Grid: (ceil(closed blocks / [`scored_blocks`]), KV heads, rows).
pub fn block_score(shape: &Shape) -> ShaderSpec {
    code_spec("select/block_score.wgsl", shape)
}

/// Grid: (ceil(blocks kept / [`scored_blocks`]), KV heads, rows).
pub fn token_score(shape: &Shape) -> ShaderSpec {
    code_spec("select/token_score.wgsl", shape)
}

/// Grid: (ceil(closed blocks / 4), KV heads, rows).
pub fn bounds_score(shape: &Shape) -> ShaderSpec {
    kv_spec("select/bounds_score.wgsl", shape)
}

/// Grid: (closed blocks, KV heads, rows).
pub fn exact_block_score(shape: &Shape) -> ShaderSpec {
    kv_spec("select/exact_block_score.wgsl", shape).constant("SCALE", shape.scale())
}

/// Grid: (blocks kept, KV heads, rows).
pub fn exact_token_score(shape: &Shape) -> ShaderSpec {
    kv_spec("select/exact_token_score.wgsl", shape).constant("SCALE", shape.scale())
}

/// Level 1's top-k of what this scorer wrote. Grid: (KV heads, rows).
pub fn top_k_blocks(
    tier: &Tier,
    shape: &Shape,
    scorer: BlockScorer,
    resident: Option<HotSlots>,
) -> ShaderSpec {
    let rank = match scorer {
        BlockScorer::MinMax => "lib/rank_plain.wgsl",
        BlockScorer::Codes | BlockScorer::None | BlockScorer::Oracle => "lib/rank_softmax.wgsl",
    };
    let spec = spec("select/top_k.wgsl", shape).slot("rank", rank).constant("LANES", tier.lanes);
    match resident {
        None => spec.slot("items", "lib/items_blocks.wgsl"),
        Some(slots) => slots.constants(spec.slot("items", "lib/items_resident.wgsl")),
    }
}

/// Level 2's top-k. Grid: (KV heads, rows).
pub fn top_k_tokens(tier: &Tier, shape: &Shape) -> ShaderSpec {
    spec("select/top_k.wgsl", shape)
        .slot("items", "lib/items_tokens.wgsl")
        .slot("rank", "lib/rank_softmax.wgsl")
        .constant("LANES", tier.lanes)
}

fn code_spec(file: &'static str, shape: &Shape) -> ShaderSpec {
    let chunk = shape.index.chunk();
    let chunks = match chunk {
        1 => "lib/chunk_word.wgsl",
        2 => "lib/chunk_vec2.wgsl",
        _ => "lib/chunk_vec4.wgsl",
    };
    kv_spec(file, shape)
        .slot("chunk", chunks)
        .constant("CHANNELS", shape.index.channels)
        .constant("BITS", shape.index.bits)
        .constant("CHUNK_WORDS", chunk)
        .constant("BLOCKS", scored_blocks(shape))
        .constant("SCALE", shape.scale())
}
