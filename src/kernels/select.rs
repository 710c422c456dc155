//! `shaders/select`.

use super::attend::{HotSlots, kv_spec, spec};
use crate::attention::{BlockScorer, Shape};
use crate::gpu::{ShaderSpec, Tier};

/// What a workgroup of [`block_score`] and [`token_score`] works on at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Scored {
    blocks: u32,
    /// Queries of a group, which are as many again and again.
    heads: u32,
}

/// Workgroup memory that every adapter has, less what some back ends add of their own.
const WORKGROUP_BYTES: u32 = (16 << 10) - 32;

impl Scored {
    // As many blocks as 128 lanes have, and fewer where the memory for the queries of a group asks for it; where even one
    // block is too many, the group in equal parts.
    fn of(shape: &Shape) -> Self {
        let parts = (1..=shape.group).filter(|parts| shape.group.is_multiple_of(*parts));
        parts
            .map(|parts| shape.group / parts)
            .flat_map(|heads| [8, 4, 2, 1].map(|blocks| Self { blocks, heads }))
            .find(|scored| scored.workgroup_bytes(shape.index.channels) <= WORKGROUP_BYTES)
            .unwrap_or(Self { blocks: 1, heads: 1 })
    }

    fn workgroup_bytes(self, channels: u32) -> u32 {
        let Self { blocks, heads } = self;
        // Queries; per block its steps and flag, and per query of it lanes' pairs, codes and terms.
        heads * channels * 4 + blocks * (channels * 4 + 4 + heads * (16 * 8 + channels + 8))
    }
}

/// Blocks that one workgroup of [`block_score`] or [`token_score`] scores.
pub fn scored_blocks(shape: &Shape) -> u32 {
    Scored::of(shape).blocks
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
    let scored = Scored::of(shape);
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
        .constant("BLOCKS", scored.blocks)
        .constant("HEADS", scored.heads)
        .constant("SCALE", shape.scale())
}
