//! Every kernel in every variant: tiers, weight formats, what fills its slots, shapes that differ in what decides.

use super::*;
use crate::attention::{Activation, Experts, Gate, Latent};
use crate::attention::{BlockScorer, Divisor, IndexFormat, KvLayout, Rank, Shape};
use crate::contract::{Bindings, Field};
use crate::formats::{KvType, WeightFormat};
use crate::gpu::{ShaderSpec, Tier, completed};
use std::collections::HashSet;

pub(super) fn experts(gate: Gate) -> Experts {
    Experts {
        count: 8,
        used: 2,
        shared: 1,
        ffn: 64,
        gate,
        normalised: true,
        factor: 1.0,
        layers: vec![true],
    }
}

fn shapes() -> Vec<Shape> {
    let block = |block, shape| Shape { block, ..shape };
    let index = |channels, bits, shape| Shape { index: IndexFormat { channels, bits }, ..shape };
    vec![
        Shape::new(3, 3, 64, true),
        Shape::new(8, 4, 128, false),
        block(16, Shape::new(2, 7, 80, true)),
        block(128, index(128, 8, Shape::new(1, 32, 256, false))),
        index(16, 2, Shape::new(1, 1, 32, true)),
        Shape::latent(20, 512, 64, 256),
        // A group whose scores one workgroup has, and whose ranks of blocks are made apart.
        index(16, 4, Shape::new(1, 10, 64, true)),
    ]
}

/// A kernel in one of its variants.
pub struct Variant {
    /// All that its text is made of.
    pub spec: ShaderSpec,
    /// The fields of its bindings.
    pub fields: &'static [Field],
}

fn fields<B: Bindings>() -> &'static [Field] {
    B::FIELDS
}

/// Every variant of every kernel that a tier runs, once.
pub fn variants(tier: &Tier, lanes_reversed: bool) -> Vec<Variant> {
    let shapes = shapes();
    let of_shapes = shapes.iter().flat_map(|shape| of_shape(tier, shape));
    let mut seen = HashSet::new();
    of_tier(tier)
        .into_iter()
        .chain(of_shapes)
        .map(|(spec, fields)| Variant { spec: completed(&spec, tier, lanes_reversed), fields })
        .filter(|variant| seen.insert(variant.spec.clone()))
        .collect()
}

type Of = (ShaderSpec, &'static [Field]);

/// What a product's result may be used for.
pub(super) fn outputs() -> Vec<Output> {
    let of = |activation| [Output::Glu(activation), Output::Gated(activation)];
    let plain = [Output::Store, Output::Add, Output::Capped(30.0)];
    plain.into_iter().chain([Activation::Silu, Activation::Gelu].into_iter().flat_map(of)).collect()
}

fn of_tier(tier: &Tier) -> Vec<Of> {
    let routed = experts(Gate::Softmax);
    let mut all = vec![
        (half_rows(tier), fields::<HalfRows<()>>()),
        (rms_norm(tier, Normed::Rows), fields::<RmsNorm<()>>()),
        (rms_norm(tier, Normed::Halved), fields::<RmsNorm<()>>()),
        (rms_norm(tier, Normed::Wanted), fields::<RmsNorm<()>>()),
        (rms_norm(tier, Normed::Added), fields::<RmsNorm<()>>()),
        (arg_max(), fields::<ArgMax<()>>()),
        (arg_max_part(), fields::<ArgMaxPart<()>>()),
        (stream(), fields::<Stream<()>>()),
        (route(&routed), fields::<Route<()>>()),
        (route(&experts(Gate::Sigmoid)), fields::<Route<()>>()),
        (expert_lists(&routed), fields::<ExpertLists<()>>()),
        (expert_sum(&routed), fields::<ExpertSum<()>>()),
    ];
    for format in WeightFormat::ALL {
        all.push((embed(format), fields::<Embed<()>>()));
        all.push((largest_weight(format), fields::<LargestWeight<()>>()));
        let product = fields::<Product<()>>();
        for output in outputs() {
            let (out, into) = (Batch::ExpertsOut(&routed), Batch::ExpertsIn(&routed));
            for batch in [Batch::One, Batch::Heads, out, into] {
                let several = [Tokens::Rows(2), Tokens::Rows(4), Tokens::Outputs(4)];
                let may = |tokens: &Tokens| {
                    matches!(batch, Batch::One) && tokens.of_a_workgroup() <= tokens_at_a_time(tier)
                };
                for tokens in several.into_iter().filter(may).chain([Tokens::One]) {
                    let of = (batch, tokens);
                    all.push((matvec(tier, format, (960, 18), output, of), product));
                }
            }
            for batch in [Batch::One, out, into] {
                all.push((matmul(tier, format, output, batch), product));
            }
            for &sixteens in narrow_sixteens(tier, format) {
                for rows in [960, 24_576] {
                    all.push((matmul_narrow(format, rows, sixteens, output), product));
                }
            }
        }
    }
    // Matrices for which workgroups are largest, and with short rows have the most teams.
    for tokens in [1, 2, 4].into_iter().filter(|tokens| *tokens <= tokens_at_a_time(tier)) {
        let of = (Batch::One, if tokens == 1 { Tokens::One } else { Tokens::Rows(tokens) });
        for size in [(4096, 8), (4096, 384), (24_576, 128)] {
            let spec = matvec(tier, WeightFormat::Q4_0, size, Output::Add, of);
            all.push((spec, fields::<Product<()>>()));
        }
    }
    all
}

fn of_shape(tier: &Tier, shape: &Shape) -> Vec<Of> {
    let slots = HotSlots { pool_blocks: 100, slots: 10 };
    let mut all = vec![
        (channel_stats(shape, 1024), fields::<ChannelStats<()>>()),
        (choose_channels(shape), fields::<ChooseChannels<()>>()),
        (token_codes(shape), fields::<TokenCodes<()>>()),
        (block_score(tier, shape), fields::<BlockScore<()>>()),
        (token_score(tier, shape, Divisor::Candidates), fields::<TokenScore<()>>()),
        (token_score(tier, shape, Divisor::Blocks), fields::<TokenScore<()>>()),
        (exact_block_score(shape), fields::<ExactBlockScore<()>>()),
        (exact_token_score(shape), fields::<ExactTokenScore<()>>()),
        (top_k_blocks(tier, shape, (Rank::Softmax, Divisor::Blocks), None), fields::<TopK<()>>()),
        (top_k_tokens(tier, shape, Divisor::Candidates), fields::<TopK<()>>()),
        (top_k_tokens(tier, shape, Divisor::Blocks), fields::<TopK<()>>()),
        (head_sums(tier, shape, Items::Blocks), fields::<HeadSums<()>>()),
        (head_sums(tier, shape, Items::Tokens), fields::<HeadSums<()>>()),
        (head_ranks(tier, shape, Items::Blocks), fields::<HeadRanks<()>>()),
        (head_ranks(tier, shape, Items::Tokens), fields::<HeadRanks<()>>()),
        (merge(tier, shape), fields::<Merge<()>>()),
        (latent_gather(shape), fields::<LatentGather<()>>()),
    ];
    for summary in BlockScorer::all().filter_map(BlockScorer::summary) {
        all.push((block_summary(shape, summary), fields::<BlockSummary<()>>()));
        all.push((summary_score(shape, summary), fields::<SummaryScore<()>>()));
    }
    for rank in [Rank::Softmax, Rank::Plain] {
        all.push((missed_mass(shape, rank, slots), fields::<MissedMass<()>>()));
        for resident in [None, Some(slots)] {
            let by = (rank, Divisor::Candidates);
            all.push((top_k_blocks(tier, shape, by, resident), fields::<TopK<()>>()));
        }
    }
    for place in [Place::Paged, Place::Hot(slots), Place::Arrived(slots)] {
        all.push((dense_split(tier, shape, place), fields::<Split<()>>()));
        all.push((sparse_split(tier, shape, place), fields::<Split<()>>()));
    }
    for kv_type in [KvType::F16, KvType::Q8_0] {
        all.push((place_blocks(shape, slots, kv_type), fields::<PlaceBlocks<()>>()));
        all.push((unpack_blocks(shape, kv_type), fields::<UnpackBlocks<()>>()));
    }
    if shape.shares_values() {
        let latent = Latent {
            heads: shape.group,
            q_rank: 768,
            kv_rank: shape.value_dim(),
            nope: 192,
            rope: 64,
            value: 256,
            epsilon: 1e-5,
        };
        let of_prompts = latent.prefill_shape(shape.block);
        let width = latent.heads * latent.query_dim();
        all.push((latent_append(shape, &latent), fields::<LatentAppend<()>>()));
        all.push((latent_place(&of_prompts, &latent), fields::<LatentPlace<()>>()));
        all.push((prefill(tier, &of_prompts, width), fields::<Prefill<()>>()));
    } else {
        for norm in [None, Some(1e-6)] {
            for is_biased in [false, true] {
                let append = rope_append(shape, norm, is_biased);
                all.push((append, fields::<RopeAppend<()>>()));
            }
        }
        let of_prompts = prefill(tier, shape, shape.row_width());
        all.push((with_window(of_prompts.clone(), 4096), fields::<Prefill<()>>()));
        all.push((of_prompts, fields::<Prefill<()>>()));
        all.push((window_split(tier, shape, 4096), fields::<Split<()>>()));
        all.extend(of_capped(tier, &Shape { softcap: Some(50.0), ..*shape }));
    }
    for number in [Number::F32, Number::F16] {
        for turns in [false, true] {
            let append = append_rows(shape, number, [shape.row_width(); 2], turns);
            all.push((append, fields::<AppendRows<()>>()));
        }
    }
    if !shape.shares_values() {
        all.extend(of_two_buffers(tier, shape));
    }
    all
}

// What makes logits, where they have a soft-cap.
fn of_capped(tier: &Tier, shape: &Shape) -> Vec<Of> {
    let of_prompts = prefill(tier, shape, shape.row_width());
    vec![
        (block_score(tier, shape), fields::<BlockScore<()>>()),
        (token_score(tier, shape, Divisor::Candidates), fields::<TokenScore<()>>()),
        (token_score(tier, shape, Divisor::Blocks), fields::<TokenScore<()>>()),
        (exact_block_score(shape), fields::<ExactBlockScore<()>>()),
        (exact_token_score(shape), fields::<ExactTokenScore<()>>()),
        (dense_split(tier, shape, Place::Paged), fields::<Split<()>>()),
        (sparse_split(tier, shape, Place::Paged), fields::<Split<()>>()),
        (window_split(tier, shape, 4096), fields::<Split<()>>()),
        (with_window(of_prompts.clone(), 4096), fields::<Prefill<()>>()),
        (of_prompts, fields::<Prefill<()>>()),
    ]
}

fn of_two_buffers(tier: &Tier, shape: &Shape) -> Vec<Of> {
    let layout = KvLayout::apart(shape);
    let mut all = vec![
        (token_codes(shape), fields::<TokenCodes<()>>()),
        (exact_block_score(shape), fields::<ExactBlockScore<()>>()),
        (exact_token_score(shape), fields::<ExactTokenScore<()>>()),
        (dense_split(tier, shape, Place::Paged), fields::<Split<()>>()),
        (sparse_split(tier, shape, Place::Paged), fields::<Split<()>>()),
        (prefill(tier, shape, shape.row_width()), fields::<Prefill<()>>()),
    ];
    for summary in BlockScorer::all().filter_map(BlockScorer::summary) {
        all.push((block_summary(shape, summary), fields::<BlockSummary<()>>()));
    }
    let laid_out = |(spec, fields)| (with_layout(spec, layout), fields);
    let mut all: Vec<Of> = all.into_iter().map(laid_out).collect();
    for number in [Number::F32, Number::F16] {
        for turns in [false, true] {
            let append = append_apart(shape, layout, number, shape.row_width(), turns);
            all.push((append, fields::<AppendRows<()>>()));
        }
    }
    all
}
