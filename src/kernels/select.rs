//! `shaders/select`.

use super::attend::{HotSlots, kv_spec, spec, with_cap};
use super::tiers::{self, TopKBy};
use super::{SegmentParams, StrideParams};
use crate::attention::{Divisor, Rank, Shape, Summary};
use crate::gpu::{ShaderSpec, Tier};

crate::bindings! {
    /// Of [`block_score`].
    pub struct BlockScore {
        /// The step.
        step: read,
        /// The segment of the index that `codes` is.
        segment: uniform SegmentParams,
        /// \[row\]\[query heads, key heads, value heads\]\[dimension\], f32: the queries.
        qkv: read,
        /// \[sequence slot\]\[KV head\]\[channel\]: dimensions.
        channels: read,
        /// \[block\]\[KV head\]: minimum and scale of each channel, f16, then each token's codes.
        codes: read,
        /// \[row\]\[query head\]\[stride\], f32, by logical block.
        scores: write,
        /// Scores from one query head to the next.
        score_rows: uniform StrideParams,
    }

    /// Of [`token_score`].
    pub struct TokenScore {
        /// As in [`BlockScore`].
        step: read,
        /// As in [`BlockScore`].
        segment: uniform SegmentParams,
        /// As in [`BlockScore`].
        qkv: read,
        /// As in [`BlockScore`].
        channels: read,
        /// As in [`BlockScore`].
        codes: read,
        /// \[row\]\[KV head\]\[`blocks_kept`\]: logical blocks, ascending.
        chosen_blocks: read,
        /// \[row\]\[query head\]\[stride\], f32, by place among the candidates: chosen block by chosen block. Where ranks are made
        /// ([`makes_token_ranks`]): \[row\]\[KV head\]\[stride\].
        scores: write,
        /// As in [`BlockScore`].
        score_rows: uniform StrideParams,
        /// As in [`HeadSums`], of blocks, where ranks are made of them.
        head_terms: optional read,
    }

    /// Of [`summary_score`].
    pub struct SummaryScore {
        /// As in [`BlockScore`].
        step: read,
        /// The segment of the index that `summary` is.
        segment: uniform SegmentParams,
        /// As in [`BlockScore`].
        qkv: read,
        /// \[block\]\[KV head\]\[row of the summary\]\[dimension\], f16 in pairs.
        summary: read,
        /// As in [`BlockScore`], of each group's first query head alone.
        scores: write,
        /// As in [`BlockScore`].
        score_rows: uniform StrideParams,
    }

    /// Of [`exact_block_score`].
    pub struct ExactBlockScore {
        /// As in [`BlockScore`].
        step: read,
        /// The segment that `kv` is.
        segment: uniform SegmentParams,
        /// As in [`BlockScore`].
        qkv: read,
        /// \[block\]\[KV head\]\[keys, values\]\[token\]\[dimension\], f16 in pairs.
        kv: read,
        /// As in [`BlockScore`].
        scores: write,
        /// As in [`BlockScore`].
        score_rows: uniform StrideParams,
    }

    /// Of [`exact_token_score`].
    pub struct ExactTokenScore {
        /// As in [`BlockScore`].
        step: read,
        /// As in [`ExactBlockScore`].
        segment: uniform SegmentParams,
        /// As in [`BlockScore`].
        qkv: read,
        /// As in [`ExactBlockScore`].
        kv: read,
        /// As in [`TokenScore`].
        chosen_blocks: read,
        /// As in [`TokenScore`].
        scores: write,
        /// As in [`BlockScore`].
        score_rows: uniform StrideParams,
    }

    /// Of [`head_sums`].
    pub struct HeadSums {
        /// As in [`BlockScore`].
        step: read,
        /// As in [`TopK`].
        score_rows: uniform StrideParams,
        /// As in [`TopK`].
        scores: read,
        /// \[row\]\[query head\]\[2\], f32: the largest score, and what exponentials relative to it are multiplied by.
        head_terms: write,
    }

    /// Of [`head_ranks`].
    pub struct HeadRanks {
        /// As in [`BlockScore`].
        step: read,
        /// As in [`TopK`].
        score_rows: uniform StrideParams,
        /// As in [`TopK`].
        scores: read,
        /// As in [`HeadSums`].
        head_terms: read,
        /// \[row\]\[KV head\]\[stride\]: the ranks' bits.
        keys: write,
    }

    /// Of [`missed_mass`].
    pub struct MissedMass {
        /// As in [`BlockScore`].
        step: read,
        /// As in [`BlockScore`].
        score_rows: uniform StrideParams,
        /// As in [`BlockScore`].
        scores: read,
        /// \[row\]\[KV head\]\[`blocks_kept`\]: logical blocks that the row should attend, ascending.
        chosen: read,
        /// As many that it does attend, as far as they are on the GPU.
        listed: read,
        /// As in [`TopK`].
        hot_slots: read,
        /// \[row\]\[KV head\], f32.
        missed: write,
    }

    /// Of [`top_k_blocks`] and [`top_k_tokens`].
    pub struct TopK {
        /// As in [`BlockScore`].
        step: read,
        /// Scores from one query head to the next, and keys from one KV head to the next.
        score_rows: uniform StrideParams,
        /// \[row\]\[query head\]\[stride\], f32.
        scores: read,
        /// \[row\]\[KV head\]\[stride\]: ranks that [`head_ranks`] or [`token_score`] made, or scratch.
        keys: write,
        /// \[row\]\[KV head\]\[`blocks_kept` or `tokens_kept`\]: what is chosen, ascending.
        chosen: write,
        /// Of tokens: as in [`TokenScore`].
        chosen_blocks: optional read,
        /// Of blocks that have a slot in the hot cache: where each is, in [`HotSlots::words`] words.
        hot_slots: optional read,
        /// Of blocks, where it softmaxes their scores itself and level 2 ranks by that: as in [`HeadSums`].
        head_terms: optional write,
    }
}

/// What a workgroup that scores has of a KV head: some blocks, and of its queries one part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scored {
    blocks: u32,
    parts: u32,
}

impl Scored {
    /// One block, and all queries.
    pub const BLOCK: Self = Self { blocks: 1, parts: 1 };
    /// Of [`summary_score`].
    pub const SUMMARIES: Self = Self { blocks: 4, parts: 1 };

    /// Of [`block_score`] and [`token_score`]. As many blocks as 128 lanes have, sixteen each, and fewer where the memory for even one query asks
    /// for it; then as many queries as there is memory for, in equal parts.
    pub fn codes(shape: &Shape) -> Self {
        let fits = |scored: &Self| scored.workgroup_bytes(shape) <= WORKGROUP_BYTES;
        let parts = |blocks| {
            let whole = move |parts: &u32| shape.group.is_multiple_of(*parts);
            (1..=shape.group).filter(whole).map(move |parts| Self { blocks, parts })
        };
        let least = Self { blocks: 1, parts: shape.group };
        [8, 4, 2, 1].into_iter().flat_map(parts).find(fits).unwrap_or(least)
    }

    /// Workgroups for so many blocks.
    pub fn workgroups(self, blocks: u32) -> u32 {
        blocks.div_ceil(self.blocks) * self.parts
    }

    /// The most blocks that so many workgroups score.
    pub fn most_blocks(self, workgroups: u32) -> u32 {
        workgroups / self.parts * self.blocks
    }

    /// Blocks that a workgroup has.
    #[cfg_attr(feature = "measure", visibility::make(pub))]
    pub(crate) fn blocks(self) -> u32 {
        self.blocks
    }

    fn heads(self, shape: &Shape) -> u32 {
        shape.group / self.parts
    }

    /// Queries that are multiplied at a time.
    fn quad(self, shape: &Shape) -> u32 {
        let heads = self.heads(shape);
        heads.div_ceil(heads.div_ceil(4))
    }

    fn workgroup_bytes(self, shape: &Shape) -> u32 {
        let (blocks, heads, channels) = (self.blocks, self.heads(shape), shape.index.channels);
        let quads = heads.div_ceil(self.quad(shape));
        // Queries; per block its flag, what it has of each query (lanes' pairs, terms), and quads of codes.
        heads * channels * 4 + blocks * (4 + heads * (CODE_LANES * 8 + 12) + quads * channels * 4)
    }
}

/// Lanes of a block in [`block_score`] and [`token_score`], where subgroups are not smaller.
const CODE_LANES: u32 = 16;

/// Words of codes that a lane has at most, where subgroups are smaller than [`CODE_LANES`], so that it has more tokens: of 512 words
/// llvmpipe's compiler takes minutes.
const MOST_LANE_WORDS: u32 = 64;

/// The lanes of a block where they shuffle among them: all of them in one subgroup, so no more than that has.
fn shuffled_lanes(tier: &Tier, shape: &Shape) -> Option<u32> {
    let lanes = tiers::of(tier).shuffled?.min(CODE_LANES);
    let words = shape.block / lanes * shape.index.words();
    (lanes == CODE_LANES || words <= MOST_LANE_WORDS).then_some(lanes)
}

/// Workgroup memory that every adapter has, less what some back ends add of their own.
const WORKGROUP_BYTES: u32 = (16 << 10) - 32;

/// Grid: ([`Scored::codes`] of the sealed blocks, KV heads, rows).
pub fn block_score(tier: &Tier, shape: &Shape) -> ShaderSpec {
    let sums = match shuffled_lanes(tier, shape) {
        Some(_) => "lib/block_sums_shuffled.wgsl",
        None => "lib/block_sums_memory.wgsl",
    };
    code_spec("select/block_score.wgsl", tier, shape).slot("sums", sums)
}

/// Grid: ([`Scored::codes`] of the blocks kept, KV heads, rows).
pub fn token_score(tier: &Tier, shape: &Shape, divisor: Divisor) -> ShaderSpec {
    let kept = match makes_token_ranks(shape, divisor) {
        true => "lib/token_ranks.wgsl",
        false => "lib/token_scores.wgsl",
    };
    code_spec("select/token_score.wgsl", tier, shape).slot("kept", kept)
}

/// Whether [`token_score`] ranks tokens, rather than what follows it: its workgroups have all heads of a group, and need nothing of
/// each other.
pub fn makes_token_ranks(shape: &Shape, divisor: Divisor) -> bool {
    divisor == Divisor::Blocks && Scored::codes(shape).parts == 1
}

/// Grid: ([`Scored::SUMMARIES`] of the sealed blocks, KV heads, rows).
pub fn summary_score(shape: &Shape, summary: &Summary) -> ShaderSpec {
    let spec = kv_spec("select/summary_score.wgsl", shape)
        .slot("fold", summary.fold)
        .constant("SUMMARY_ROWS", summary.rows);
    summary.constants.iter().fold(spec, |spec, &(name, value)| spec.constant(name, value))
}

/// Grid: (sealed blocks, KV heads, rows).
pub fn exact_block_score(shape: &Shape) -> ShaderSpec {
    exact_spec("select/exact_block_score.wgsl", shape)
}

/// Grid: (blocks kept, KV heads, rows).
pub fn exact_token_score(shape: &Shape) -> ShaderSpec {
    exact_spec("select/exact_token_score.wgsl", shape)
}

/// The share of mass in blocks that are chosen and not attended, where scores rank so. A score that is summed over the group counts
/// as a logit of one query: what one head turns to shows, and the heads that stay do not hide it. Grid: (KV heads, rows).
pub fn missed_mass(shape: &Shape, rank: Rank, slots: HotSlots) -> ShaderSpec {
    let (heads, factor) = match rank {
        Rank::Softmax => (shape.group, 1.0),
        Rank::Plain => (1, shape.scale()),
    };
    let spec = slots.constants(spec("select/missed_mass.wgsl", shape));
    spec.constant("HEADS", heads).constant("FACTOR", factor)
}

/// Level 1's top-k of scores that rank so; level 2 divides its own by this. Grid: (KV heads, rows).
pub fn top_k_blocks(
    tier: &Tier,
    shape: &Shape,
    (rank, divisor): (Rank, Divisor),
    resident: Option<HotSlots>,
) -> ShaderSpec {
    let ranks = match rank {
        _ if ranks_apart(shape, rank) => Ranks::Made,
        Rank::Plain => Ranks::Plain,
        Rank::Softmax => Ranks::Softmax { keeps_terms: divisor == Divisor::Blocks },
    };
    let spec = top_k(tier, shape, ranks);
    match resident {
        None => spec.slot("items", "lib/items_blocks.wgsl"),
        Some(slots) => slots.constants(spec.slot("items", "lib/items_resident.wgsl")),
    }
}

/// Level 2's top-k. Grid: (KV heads, rows).
pub fn top_k_tokens(tier: &Tier, shape: &Shape, divisor: Divisor) -> ShaderSpec {
    let is_made = divisor == Divisor::Blocks || ranks_apart(shape, Rank::Softmax);
    let ranks = if is_made { Ranks::Made } else { Ranks::Softmax { keeps_terms: false } };
    top_k(tier, shape, ranks).slot("items", "lib/items_tokens.wgsl")
}

/// Where a top-k has the ranks of its items from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ranks {
    /// Other kernels.
    Made,
    /// The scores, as they are.
    Plain,
    /// The scores, softmaxed; by what may be kept.
    Softmax { keeps_terms: bool },
}

/// What a level chooses among.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Items {
    /// Level 1: a row's sealed blocks.
    Blocks,
    /// Level 2: the tokens of the blocks that level 1 chose.
    Tokens,
}

impl Items {
    /// The file that fills the slot `<items>` where nothing is written of them.
    fn file(self) -> &'static str {
        match self {
            Self::Blocks => "lib/items_of_blocks.wgsl",
            Self::Tokens => "lib/items_of_tokens.wgsl",
        }
    }
}

/// Whether [`head_sums`] and [`head_ranks`] make the ranks of [`top_k_blocks`], and of [`top_k_tokens`] by the candidates' own sums:
/// one workgroup takes longer to read the scores of more heads than two further dispatches take.
pub fn ranks_apart(shape: &Shape, rank: Rank) -> bool {
    rank == Rank::Softmax && shape.group > 8
}

/// What softmaxes each query head's scores. Grid: (query heads, rows).
pub fn head_sums(tier: &Tier, shape: &Shape, items: Items) -> ShaderSpec {
    made_apart("select/head_sums.wgsl", tier, shape, items)
        .constant("KEEPS_TERMS", items == Items::Blocks)
}

/// Items' ranks of those. Grid: ([`HEAD_RANKS_WORKGROUPS`], KV heads, rows).
pub fn head_ranks(tier: &Tier, shape: &Shape, items: Items) -> ShaderSpec {
    made_apart("select/head_ranks.wgsl", tier, shape, items)
}

/// Workgroups that take turns at a row's items: of 256 lanes they have 8,192 at a time, the tokens of 128 blocks.
pub const HEAD_RANKS_WORKGROUPS: u32 = 32;

fn made_apart(file: &'static str, tier: &Tier, shape: &Shape, items: Items) -> ShaderSpec {
    spec(file, shape).slot("items", items.file()).constant("WORKGROUP", tiers::of(tier).lanes)
}

fn top_k(tier: &Tier, shape: &Shape, ranks: Ranks) -> ShaderSpec {
    let tiers::TopK { lanes, at_once, by } = tiers::of(tier).top_k;
    let spec = match by {
        TopKBy::Memory { leaves } => spec("select/top_k.wgsl", shape)
            .slot(
                "rank",
                match ranks {
                    Ranks::Made => "lib/rank_made.wgsl",
                    Ranks::Plain => "lib/rank_plain.wgsl",
                    Ranks::Softmax { .. } => "lib/rank_softmax.wgsl",
                },
            )
            .constant("LEAVES", leaves)
            .constant("LOADS", at_once),
        TopKBy::Shuffles { subgroup, held } => spec("select/top_k_shuffled.wgsl", shape)
            .slot(
                "rank",
                match ranks {
                    Ranks::Made => "lib/rank_made_shuffled.wgsl",
                    Ranks::Plain => "lib/rank_plain_shuffled.wgsl",
                    Ranks::Softmax { .. } => "lib/rank_softmax_shuffled.wgsl",
                },
            )
            .constant("SUBGROUP", subgroup)
            .constant("HELD", held)
            // Of four heads each.
            .constant("LOADS", 4),
    };
    let spec = spec.constant("LANES", lanes).constant("AT_ONCE", at_once);
    match ranks {
        Ranks::Made | Ranks::Plain => spec,
        Ranks::Softmax { keeps_terms: true } => spec.slot("terms", "lib/terms_kept.wgsl"),
        Ranks::Softmax { keeps_terms: false } => spec.slot("terms", "lib/terms_dropped.wgsl"),
    }
}

fn exact_spec(file: &'static str, shape: &Shape) -> ShaderSpec {
    with_cap(kv_spec(file, shape), shape.softcap).constant("SCALE", shape.scale())
}

fn code_spec(file: &'static str, tier: &Tier, shape: &Shape) -> ShaderSpec {
    let chunk = shape.index.chunk();
    let (join, lanes) = match shuffled_lanes(tier, shape) {
        Some(lanes) => ("lib/join_shuffled.wgsl", lanes),
        None => ("lib/join_memory.wgsl", CODE_LANES),
    };
    let scored = Scored::codes(shape);
    let chunks = match chunk {
        1 => "lib/chunk_word.wgsl",
        2 => "lib/chunk_vec2.wgsl",
        _ => "lib/chunk_vec4.wgsl",
    };
    with_cap(kv_spec(file, shape), shape.softcap)
        .slot("chunk", chunks)
        .slot("join", join)
        .constant("LANES", lanes)
        .constant("CHANNELS", shape.index.channels)
        .constant("BITS", shape.index.bits)
        .constant("CHUNK_WORDS", chunk)
        .constant("BLOCKS", scored.blocks)
        .constant("PARTS", scored.parts)
        .constant("HEADS", scored.heads(shape))
        .constant("QUAD", scored.quad(shape))
        .constant("SCALE", shape.scale())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_group_are_equal_and_blocks_are_counted_with_them() {
        for group in 1..=32 {
            for shape in [Shape::latent(group, 512, 64, 256), Shape::new(2, group, 128, false)] {
                let scored = Scored::codes(&shape);
                assert_eq!(scored.heads(&shape) * scored.parts, group);
                let most = scored.most_blocks(65535);
                assert!(scored.workgroups(most) <= 65535, "{shape:?}");
                assert!(scored.workgroups(most + scored.blocks) > 65535, "{shape:?}");
            }
        }
    }
}
