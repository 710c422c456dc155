//! Cases of `shaders/select`.

use super::cache::{Cache, Family, index_shapes, shape_label, shapes};
use super::index::random_channels;
use super::rig::{
    Data, POISON, Random, bits, cap_error, compare, in_eights, is_run, of_32, run, same_words,
    untouched,
};
use super::{Case, Verdict};
use crate::Result;
use crate::attention::softmax_mean;
use crate::attention::{BlockScorer, Blocks, Budget, Divisor, Rank, Shape, Step};
use crate::gpu::Gpu;
use crate::kernels::{self, HotSlots, Items, NO_SLOT, StrideParams};
use crate::reference::index::{BlockQuery, Range, pack_codes};
use crate::reference::model::{dot, soft_capped};
use crate::reference::select::{check_top_k, log_sum_exp, missed_share};
use crate::reference::summary::SummaryTwin;

pub(super) fn cases(cases: &mut Vec<Case>) {
    for shape in index_shapes() {
        let label = shape_label(&shape);
        for segments in [1, 3] {
            let summaries = BlockScorer::all().filter_map(SummaryTwin::of).map(Of::Summary);
            for of in summaries.chain([Of::Blocks, Of::Tokens]) {
                let (kernel, label, shares_memory) = match of {
                    Of::Summary(twin) => {
                        ("summary_score", format!("{label} {}", twin.scorer), true)
                    }
                    Of::Blocks => ("exact_block_score", label.clone(), true),
                    Of::Tokens => ("exact_token_score", label.clone(), false),
                };
                for family in [Family::Random, Family::Peaked, Family::Equal, Family::NotFinite] {
                    let is_new = matches!(family, Family::Equal | Family::NotFinite);
                    // Segments change which blocks are here, not what is computed.
                    if is_new && (segments > 1 || !matches!(of, Of::Summary(_))) {
                        continue;
                    }
                    cases.push(Case::new(
                        kernel,
                        format!("{label} segments {segments} {family:?}"),
                        shares_memory,
                        move |gpu| Box::pin(key_scores(gpu, shape, segments, of, family)),
                    ));
                }
            }
            for kept in kept(&shape) {
                for family in ["random", "peaked", "steep", "equal", "zero query"] {
                    // Segments change which blocks are here, not what is computed, and tokens are not summed.
                    let is_summed = kept == Kept::Blocks;
                    if segments > 1 && family != "random" || !is_summed && family == "steep" {
                        continue;
                    }
                    cases.push(Case::new(
                        kept.kernel(),
                        format!("{label} segments {segments} {family}{}", kept.suffix()),
                        true,
                        move |gpu| Box::pin(scores(gpu, shape, segments, kept, family)),
                    ));
                }
            }
        }
    }
    // Soft-caps that matter, of small logits and of large ones.
    for shape in index_shapes().into_iter().filter(|shape| !shape.shares_values()).step_by(3) {
        for (cap, family, codes) in
            [(0.25, Family::Random, "random"), (5.0, Family::Peaked, "peaked")]
        {
            let shape = Shape { softcap: Some(cap), ..shape };
            let label = format!("{} {codes}", shape_label(&shape));
            for (kernel, of) in
                [("exact_block_score", Of::Blocks), ("exact_token_score", Of::Tokens)]
            {
                cases.push(Case::new(kernel, label.clone(), true, move |gpu| {
                    Box::pin(key_scores(gpu, shape, 1, of, family))
                }));
            }
            for kept in kept(&shape) {
                let label = format!("{label}{}", kept.suffix());
                cases.push(Case::new(kept.kernel(), label, true, move |gpu| {
                    Box::pin(scores(gpu, shape, 1, kept, codes))
                }));
            }
        }
    }
    let shapes = shapes();
    for (level, rank) in [(1, Rank::Softmax), (1, Rank::Plain), (2, Rank::Softmax)] {
        for family in ["random", "ties", "equal", "peaked", "nan", "infinite"] {
            for (blocks, tokens) in [
                (Blocks::Count(1), 1),
                (Blocks::Count(3), 100),
                (Blocks::Count(16), 256),
                (Blocks::Count(1000), 5000),
                // Another number for each row.
                (Blocks::Percent(30.0), 90),
            ] {
                let shape = match family {
                    "random" => shapes[4],
                    "ties" => Shape { block: 16, ..shapes[1] },
                    _ => shapes[1],
                };
                let label =
                    format!("level {level} {rank:?} {family} blocks {blocks} tokens {tokens}");
                for kernel in ["top_k", "top_k_shuffled"] {
                    cases.push(Case::new(kernel, label.clone(), true, move |gpu| {
                        let budget = (blocks, tokens);
                        Box::pin(top_k(gpu, (kernel, shape), (level, rank), family, budget, 40))
                    }));
                }
            }
        }
    }
    for rank in [Rank::Softmax, Rank::Plain] {
        for family in [
            "random",
            "peaked",
            "equal",
            "nothing missed",
            "listed in vain",
            "listed by the next head",
            "hidden",
            "infinite",
            "nan",
        ] {
            let budgets = match family {
                "random" => &[Blocks::Count(7), Blocks::Count(90), Blocks::Percent(30.0)][..],
                // Fewer than half of them, so that one head's are behind all of another's.
                "listed by the next head" => &[Blocks::Count(40)],
                _ => &[Blocks::Count(90)],
            };
            for &blocks in budgets {
                let shape = match family {
                    "random" | "listed by the next head" => shapes[4],
                    _ => shapes[1],
                };
                let label = format!("{rank:?} {family} blocks {blocks}");
                cases.push(Case::new("missed_mass", label, true, move |gpu| {
                    Box::pin(missed_mass(gpu, shape, rank, family, blocks))
                }));
            }
        }
    }
    // Groups of many heads, whose ranks other kernels make.
    for (kv_heads, group, family) in [
        (1, 20, "random"),
        (2, 16, "random"),
        (2, 9, "ties"),
        (1, 20, "peaked"),
        (1, 20, "equal"),
        (3, 17, "nan"),
        (1, 20, "infinite"),
        (1, 20, "lone"),
    ] {
        let shape = Shape { kv_heads, group, ..shapes[1] };
        for (level, blocks, tokens) in [
            (1, Blocks::Count(1), 1),
            (1, Blocks::Count(16), 256),
            (1, Blocks::Percent(30.0), 90),
            (2, Blocks::Count(3), 100),
            // All but one.
            (2, Blocks::Count(3), 3 * shape.block - 1),
            (2, Blocks::Count(16), 256),
            (2, Blocks::Count(1000), 5000),
        ] {
            let label = format!(
                "level {level} {family} group {group} kv {kv_heads} blocks {blocks} tokens {tokens}"
            );
            let (budget, rank) = ((blocks, tokens), (level, Rank::Softmax));
            for kernel in ["top_k", "top_k_shuffled"] {
                cases.push(Case::new(kernel, label.clone(), true, move |gpu| {
                    Box::pin(top_k(gpu, (kernel, shape), rank, family, budget, 40))
                }));
            }
            // What a score that is no number makes of the others is not told: compilers may assume that there is none.
            if family != "nan" {
                cases.push(Case::new("head_ranks", label, true, move |gpu| {
                    Box::pin(head_ranks(gpu, shape, level, family, budget, 40))
                }));
            }
        }
    }
    // Of many items: lanes go over them several times, and keys or ranks may go through memory.
    for group in [2, 20] {
        let shape = Shape { kv_heads: 1, group, block: 16, ..shapes[1] };
        let label = format!("level 1 random group {group} of 1100 blocks");
        let (rank, budget) = ((1, Rank::Softmax), (Blocks::Count(128), 1));
        for kernel in ["top_k", "top_k_shuffled"] {
            cases.push(Case::new(kernel, label.clone(), true, move |gpu| {
                Box::pin(top_k(gpu, (kernel, shape), rank, "random", budget, 1100))
            }));
        }
        if group == 20 {
            for family in ["random", "lone"] {
                let label = label.replace("random", family);
                cases.push(Case::new("head_ranks", label, true, move |gpu| {
                    Box::pin(head_ranks(gpu, shape, 1, family, budget, 1100))
                }));
            }
        }
    }
    // Several heads whose keys go through memory.
    let two_heads = Shape { kv_heads: 2, group: 2, block: 16, ..shapes[1] };
    for kernel in ["top_k", "top_k_shuffled"] {
        cases.push(Case::new(kernel, "level 1 random kv 2 of 1100 blocks", true, move |gpu| {
            let (rank, budget) = ((1, Rank::Softmax), (Blocks::Count(128), 1));
            Box::pin(top_k(gpu, (kernel, two_heads), rank, "random", budget, 1100))
        }));
    }
    let small = Shape { kv_heads: 1, group: 2, ..shapes[1] };
    let many_heads = Shape { group: 20, ..small };
    for (most_blocks, tokens) in [(170, 1024), (262, 3000)] {
        let label = format!("level 2 random group 20 of {most_blocks} blocks tokens {tokens}");
        let (rank, budget) = ((2, Rank::Softmax), (Blocks::Count(most_blocks), tokens));
        for kernel in ["top_k", "top_k_shuffled"] {
            cases.push(Case::new(kernel, label.clone(), true, move |gpu| {
                Box::pin(top_k(gpu, (kernel, many_heads), rank, "random", budget, most_blocks))
            }));
        }
        cases.push(Case::new("head_ranks", label, true, move |gpu| {
            Box::pin(head_ranks(gpu, many_heads, 2, "random", budget, most_blocks))
        }));
    }
    for (most_blocks, tokens) in [(170, 1024), (262, 3000)] {
        for family in ["random", "ties", "nan"] {
            let label = format!("level 2 {family} of {most_blocks} blocks tokens {tokens}");
            let (rank, budget) = ((2, Rank::Softmax), (Blocks::Count(most_blocks), tokens));
            for kernel in ["top_k", "top_k_shuffled"] {
                cases.push(Case::new(kernel, label.clone(), true, move |gpu| {
                    Box::pin(top_k(gpu, (kernel, small), rank, family, budget, most_blocks))
                }));
            }
        }
    }
}

// Fewer blocks and tokens than most rows have.
const FEW: Budget = Budget {
    blocks: Blocks::Count(5),
    tokens: 9,
    sink_blocks: 1,
    recent_blocks: 2,
    dense_below: 0,
};

const CODED: &str = "A code of the query may round either way, and sums of f32 round; the exponentials and the logarithm of level 1 are \
    within some ulp of what they are of. A soft-cap c is off by 12 c 2^-23, and level 1 takes it of two logits for each exponential.";

const SUMMED: &str = "Products and sums of d terms round: (d + 8) 2^-23 of their absolute sum; that of exponentials and its logarithm is \
    within a few ulp of at most ln 128 = 5. A soft-cap c is off by 12 c 2^-23.";

const RANKED: &str = "A rank is a sum over heads of exponentials of logits, each of which may be off as a score may, relative to the largest score of a \
    block; exp of at most 200 is within 400 ulp.";

// What is kept of logits from codes: of blocks their sums; of tokens themselves, or ranks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    Blocks,
    Tokens,
    Ranks,
}

impl Kept {
    fn kernel(self) -> &'static str {
        match self {
            Self::Blocks => "block_score",
            Self::Tokens | Self::Ranks => "token_score",
        }
    }

    fn suffix(self) -> &'static str {
        if self == Self::Ranks { " ranks" } else { "" }
    }
}

// What a shape's kernels keep.
fn kept(shape: &Shape) -> impl Iterator<Item = Kept> + use<> {
    let makes_ranks = kernels::makes_token_ranks(shape, Divisor::Blocks);
    [Kept::Blocks, Kept::Tokens].into_iter().chain(makes_ranks.then_some(Kept::Ranks))
}

// A row's scores, and how far each may be off.
type Scores = Vec<(f64, f64)>;

// A head-block's index: a range a channel, and codes by token and channel.
type HeadIndex = (Vec<Range>, Vec<Vec<u8>>);

// Scores from random indices: whatever keys they were built from.
async fn scores(
    gpu: &Gpu,
    shape: Shape,
    segments: u32,
    kept: Kept,
    family: &'static str,
) -> Result<Verdict> {
    let mut random = Random::new(41);
    // 20 sealed blocks, exactly one, none.
    let lengths = [20 * shape.block + 9, shape.block + 1, shape.block];
    let cache = Cache::new(shape, &lengths, segments, Family::Equal);
    let budget = FEW;
    let step = cache.step(&[1, 1, 1], Some(&budget), &[], 16);
    let rows = cache.rows(&[1, 1, 1]);
    let (q_heads, kv_heads, group, block) = (
        shape.q_heads() as usize,
        shape.kv_heads as usize,
        shape.group as usize,
        shape.block as usize,
    );
    let (count, format) = (shape.index.channels as usize, shape.index);
    let (d, width) = (shape.head_dim as usize, shape.row_width() as usize);
    let mut qkv = random.floats(3 * width);
    if family == "zero query" {
        qkv[..d].fill(0.0);
    }
    let qkv_bits = bits(&qkv);
    let channels = random_channels(&shape, 3, &mut random);
    let channel_words = channels.concat();
    let f16 = |value: f32| half::f16::from_f32(value);
    // The ranges and codes of every head of every physical block; where steps are large logits reach +-100 and exponentials
    // underflow, and where they are larger still those of one block are so far apart that all but the largest are nothing beside it.
    let size = match family {
        "peaked" => 40.0,
        "steep" => 2000.0,
        _ => 1.0,
    } / format.largest() as f32;
    // Physical block, KV head.
    let indices: Vec<Vec<HeadIndex>> = (0..segments * cache.blocks_a_segment)
        .map(|_| {
            let head = |_| {
                let ranges = (0..count).map(|c| {
                    let step = if c == 3 { 0.0 } else { (0.5 + random.float().abs()) * size };
                    Range { zero: f16(random.float()).to_f32(), scale: f16(step).to_f32() }
                });
                let ranges: Vec<Range> = ranges.collect();
                let mut token = || {
                    (0..count).map(|_| random.below(format.largest() + 1) as u8).collect::<Vec<_>>()
                };
                let first = token();
                let codes =
                    (0..block).map(|_| if family == "equal" { first.clone() } else { token() });
                (ranges, codes.collect())
            };
            (0..kv_heads).map(head).collect()
        })
        .collect();
    let blocks_kept = step.blocks_kept as usize;
    let stride =
        if kept == Kept::Blocks { step.sealed as usize + 2 } else { blocks_kept * block + 3 };
    let chosen = choose_blocks(&rows, &shape, &budget, blocks_kept, &mut random);
    let scale = f64::from(shape.scale());
    // Of each row and query head: scores, and how far each may be off.
    let mut wanted: Vec<Scores> = Vec::new();
    for (r, &(sequence, position)) in rows.iter().enumerate() {
        let row = budget.row(position, shape.block);
        for head in 0..q_heads {
            let kv_head = head / group;
            let query: Vec<f32> = channels[sequence * kv_heads + kv_head]
                .iter()
                .map(|&id| qkv[r * width + head * d + id as usize])
                .collect();
            // Each token's logit, and how far it may be off: where a query's code may round either way, and f32 sums.
            let logits = |logical: u32| {
                let physical = cache.tables[sequence][logical as usize] as usize;
                let (ranges, codes) = &indices[physical][kv_head];
                let block_query = BlockQuery::new(&query, ranges);
                let products = query.iter().zip(ranges).map(|(q, r)| f64::from((q * r.zero).abs()));
                let size = products.sum::<f64>() + 127.0 * 128.0 * count as f64 * block_query.sigma;
                let off = block_query.doubt(format) + size * (count as f64 + 8.0) * 2f64.powi(-24);
                let logit = move |token: &Vec<u8>| {
                    soft_capped(block_query.logit(token, format) * scale, shape.softcap)
                };
                let off = off * scale + cap_error(shape.softcap);
                codes.iter().map(logit).map(|l| (l, off)).collect::<Vec<_>>()
            };
            let want: Vec<(f64, f64)> = if kept == Kept::Blocks {
                (0..row.sealed)
                    .map(|b| {
                        let logits = logits(b);
                        let values: Vec<f64> = logits.iter().map(|l| l.0).collect();
                        let score = log_sum_exp(&values);
                        // Exponentials and the logarithm are within some ulp of what they are of.
                        let capped = 2.0 * cap_error(shape.softcap);
                        (score, logits[0].1 + capped + (score.abs() + 10.0) * 2f64.powi(-20))
                    })
                    .collect()
            } else {
                chosen[(r * kv_heads + kv_head) * blocks_kept..][..row.blocks as usize]
                    .iter()
                    .flat_map(|&b| logits(b))
                    .collect()
            };
            wanted.push(want);
        }
    }
    // What exponentials are relative to, and multiplied by.
    let terms: Vec<[f32; 2]> = wanted
        .iter()
        .map(|scores| {
            let most = scores.iter().map(|score| score.0).fold(-1.0, f64::max);
            [most as f32 + 0.5, 0.6 + random.float() / 2.0]
        })
        .collect();
    let why = if kept == Kept::Ranks { RANKED } else { CODED };
    if kept == Kept::Ranks {
        let of_group = |(scores, terms): (&[Scores], &[[f32; 2]])| {
            let rank = |i: usize| {
                let heads = scores.iter().zip(terms).map(|(scores, &[most, factor])| {
                    let (logit, off) = (scores[i].0 - f64::from(most), scores[i].1 + 1e-6);
                    let share = logit.exp() * f64::from(factor);
                    let off = off + logit.abs() * 2f64.powi(-22);
                    (share, share * (off.exp_m1() + 420.0 * 2f64.powi(-23)))
                });
                // Below what f32 holds normal, anything.
                heads.fold((0.0, 1e-36), |all, head| (all.0 + head.0, all.1 + head.1))
            };
            (0..scores[0].len()).map(rank).collect()
        };
        wanted = wanted.chunks(group).zip(terms.chunks(group)).map(of_group).collect();
    }
    let terms = bits(terms.as_flattened());
    let lists = if kept == Kept::Ranks { kv_heads } else { q_heads };
    let mut out = vec![POISON; 3 * lists * stride];
    // The last first: what one writes that is another's is not written over.
    for segment in (0..segments).rev() {
        let params = cache.segment(segment);
        let first = (segment * cache.blocks_a_segment) as usize;
        let words: Vec<u32> = indices[first..first + cache.blocks_a_segment as usize]
            .iter()
            .flatten()
            .flat_map(|(ranges, codes)| {
                let header = ranges.iter().map(|r| {
                    u32::from(f16(r.zero).to_bits()) | u32::from(f16(r.scale).to_bits()) << 16
                });
                header
                    .chain(codes.iter().flat_map(|token| pack_codes(token, format)))
                    .collect::<Vec<_>>()
            })
            .collect();
        let blocks = kernels::BlockScore {
            step: Data::In(&step.words),
            segment: Data::uniform(params),
            qkv: Data::In(&qkv_bits),
            channels: Data::In(&channel_words),
            codes: Data::In(&words),
            scores: Data::InOut(&out),
            score_rows: Data::uniform(StrideParams { stride: stride as u32 }),
        };
        let scored = kernels::Scored::codes(&shape);
        out = if kept == Kept::Blocks {
            let grid = (scored.workgroups(step.sealed), shape.kv_heads, 3);
            run(gpu, &kernels::block_score(gpu.tier, &shape), blocks, grid).await?.scores
        } else {
            let grid = (scored.workgroups(step.blocks_kept), shape.kv_heads, 3);
            let tokens = kernels::TokenScore {
                step: blocks.step,
                segment: blocks.segment,
                qkv: blocks.qkv,
                channels: blocks.channels,
                codes: blocks.codes,
                chosen_blocks: Data::In(&chosen),
                scores: blocks.scores,
                score_rows: blocks.score_rows,
                head_terms: (kept == Kept::Ranks).then_some(Data::In(&terms)),
            };
            let divisor = match kept {
                Kept::Ranks => Divisor::Blocks,
                _ => Divisor::Candidates,
            };
            run(gpu, &kernels::token_score(gpu.tier, &shape, divisor), tokens, grid).await?.scores
        };
    }
    for (r, want) in wanted.iter().enumerate() {
        let values: Vec<f64> = want.iter().map(|w| w.0).collect();
        let got = &out[r * stride..][..stride];
        let part = format!("row {} head {}", r / lists, r % lists);
        let least = if kept == Kept::Ranks { 0.0 } else { 1e-6 };
        let verdict = compare(&part, got, &values, why, |i| want[i].1 + least)
            .and(untouched("after the scores", &got[want.len()..]));
        if verdict.is_err() {
            return Ok(verdict);
        }
    }
    Ok(Ok(()))
}

// Random ascending candidate blocks for each row and KV head, as level 1 would leave them.
fn choose_blocks(
    rows: &[(usize, u32)],
    shape: &Shape,
    budget: &Budget,
    kept: usize,
    random: &mut Random,
) -> Vec<u32> {
    let mut chosen = Vec::new();
    for &(_, position) in rows {
        let row = budget.row(position, shape.block);
        for _ in 0..shape.kv_heads {
            let mut pool: Vec<u32> = (row.sink..row.recent_first).collect();
            while pool.len() > row.blocks as usize {
                pool.remove(random.below(pool.len() as u32) as usize);
            }
            pool.resize(kept, u32::MAX);
            chosen.extend(pool);
        }
    }
    chosen
}

// What is scored by the cache itself.
#[derive(Clone, Copy)]
enum Of {
    Summary(&'static SummaryTwin),
    Blocks,
    Tokens,
}

// The oracle scorers and the summaries, whose inputs are the cache itself.
async fn key_scores(
    gpu: &Gpu,
    shape: Shape,
    segments: u32,
    of: Of,
    family: Family,
) -> Result<Verdict> {
    let mut random = Random::new(43);
    let lengths = [20 * shape.block + 9, shape.block + 1, shape.block];
    let cache = Cache::new(shape, &lengths, segments, family);
    let budget = FEW;
    let step = cache.step(&[1, 1, 1], Some(&budget), &[], 16);
    let rows = cache.rows(&[1, 1, 1]);
    let (q_heads, kv_heads, group) =
        (shape.q_heads() as usize, shape.kv_heads as usize, shape.group as usize);
    let (d, width) = (shape.head_dim as usize, shape.row_width() as usize);
    let qkv = random.floats(3 * width);
    let qkv_bits = bits(&qkv);
    let kept = step.blocks_kept as usize;
    let stride = if matches!(of, Of::Tokens) {
        kept * shape.block as usize + 3
    } else {
        step.sealed as usize + 2
    };
    let chosen = choose_blocks(&rows, &shape, &budget, kept, &mut random);
    let mut out = vec![POISON; 3 * q_heads * stride];
    // The last first: what one writes that is another's is not written over.
    for segment in (0..segments).rev() {
        let stored = match of {
            Of::Summary(twin) => cache.summary_words(segment, twin),
            Of::Blocks | Of::Tokens => cache.segment_words(segment),
        };
        let (words, stored) = (Data::In(&step.words), Data::In(&stored));
        let (segment, qkv) = (Data::uniform(cache.segment(segment)), Data::In(&qkv_bits));
        let (scores, score_rows) =
            (Data::InOut(&out), Data::uniform(StrideParams { stride: stride as u32 }));
        let grid = |x: u32| (x, shape.kv_heads, 3);
        out = match of {
            Of::Summary(twin) => {
                let blocks = kernels::SummaryScore {
                    step: words,
                    segment,
                    qkv,
                    summary: stored,
                    scores,
                    score_rows,
                };
                let summary = twin.scorer.summary().expect("a summary that has a twin");
                let spec = kernels::summary_score(&shape, summary);
                let grid = grid(kernels::Scored::SUMMARIES.workgroups(step.sealed));
                run(gpu, &spec, blocks, grid).await?.scores
            }
            Of::Blocks => {
                let blocks = kernels::ExactBlockScore {
                    step: words,
                    segment,
                    qkv,
                    kv: stored,
                    scores,
                    score_rows,
                };
                let spec = kernels::exact_block_score(&shape);
                run(gpu, &spec, blocks, grid(step.sealed)).await?.scores
            }
            Of::Tokens => {
                let tokens = kernels::ExactTokenScore {
                    step: words,
                    segment,
                    qkv,
                    kv: stored,
                    chosen_blocks: Data::In(&chosen),
                    scores,
                    score_rows,
                };
                let spec = kernels::exact_token_score(&shape);
                run(gpu, &spec, tokens, grid(step.blocks_kept)).await?.scores
            }
        };
    }
    let rounding = f64::from(shape.head_dim + 8) * 2f64.powi(-23);
    for (r, &(sequence, position)) in rows.iter().enumerate() {
        let row = budget.row(position, shape.block);
        for head in 0..q_heads {
            let kv_head = head / group;
            let query = &qkv[r * width + head * d..][..d];
            let key = |t: u32| cache.key(sequence, kv_head, t);
            let logit =
                |t: u32| soft_capped(dot(query, key(t)) * f64::from(shape.scale()), shape.softcap);
            let size = |t: u32| {
                let products = query.iter().zip(key(t)).map(|(a, b)| f64::from((a * b).abs()));
                products.sum::<f64>() * f64::from(shape.scale())
            };
            let tokens = |b: u32| b * shape.block..(b + 1) * shape.block;
            // The value of each item, and what its rounding is relative to.
            let want: Vec<(f64, f64)> = match of {
                Of::Tokens => chosen[(r * kv_heads + kv_head) * kept..][..row.blocks as usize]
                    .iter()
                    .flat_map(|&b| tokens(b))
                    .map(|t| (logit(t), size(t)))
                    .collect(),
                Of::Blocks => (0..row.sealed)
                    .map(|b| {
                        let logits: Vec<f64> = tokens(b).map(logit).collect();
                        // The sum of exponentials and its logarithm are within a few ulp of at most ln 128 = 5.
                        (log_sum_exp(&logits), tokens(b).map(size).fold(5.0, f64::max))
                    })
                    .collect(),
                // Only a group's first head holds a score.
                Of::Summary(_) if !head.is_multiple_of(group) => Vec::new(),
                Of::Summary(twin) => (0..row.sealed)
                    .map(|b| {
                        let rows = twin.rows(&cache.block_keys(sequence, kv_head, b));
                        let queries: Vec<&[f32]> =
                            (0..group).map(|h| &qkv[r * width + (head + h) * d..][..d]).collect();
                        let sizes: Vec<Vec<f32>> = queries.iter().map(|q| absolute(q)).collect();
                        let sizes: Vec<&[f32]> = sizes.iter().map(Vec::as_slice).collect();
                        let largest: Vec<Vec<f32>> = rows.iter().map(|row| absolute(row)).collect();
                        let size = twin.score(&sizes, &largest);
                        // A fold may be zero where the query is not: zero times what is not finite is not finite.
                        let is_finite = rows.iter().flatten().all(|value| value.is_finite());
                        (if is_finite { twin.score(&queries, &rows) } else { f64::NAN }, size)
                    })
                    .collect(),
            };
            let values: Vec<f64> = want.iter().map(|w| w.0).collect();
            let got = &out[(r * q_heads + head) * stride..][..stride];
            let verdict = compare(&format!("row {r} head {head}"), got, &values, SUMMED, |i| {
                want[i].1 * rounding + cap_error(shape.softcap)
            })
            .and(untouched("after the scores", &got[want.len()..]));
            if verdict.is_err() {
                return Ok(verdict);
            }
        }
    }
    Ok(Ok(()))
}

fn absolute(values: &[f32]) -> Vec<f32> {
    values.iter().map(|value| value.abs()).collect()
}

async fn missed_mass(
    gpu: &Gpu,
    shape: Shape,
    rank: Rank,
    family: &str,
    blocks: Blocks,
) -> Result<Verdict> {
    let mut random = Random::new(43);
    // Rows with more blocks than lanes, with none beyond sink and recent, and with a single one more.
    let lengths = [150 * shape.block + 1, shape.block, 6 * shape.block + 5];
    let cache = Cache::new(shape, &lengths, 1, Family::Equal);
    let budget = Budget { blocks, ..FEW };
    // Some blocks lie in the window, which comes first; of the others some lie nowhere.
    let is_in_window = |block: u32| block % 5 == 2;
    let lies_nowhere = |head: usize, block: u32| {
        family != "nothing missed" && !is_in_window(block) && (block + head as u32) % 7 == 4
    };
    let window = |table: &Vec<u32>| -> Vec<u32> {
        (0..table.len() as u32).map(|b| if is_in_window(b) { 0 } else { NO_SLOT }).collect()
    };
    let windows: Vec<Vec<u32>> = cache.tables.iter().map(window).collect();
    let slots = HotSlots { pool_blocks: cache.blocks_a_segment, slots: 1 };
    let mut hot_slots = vec![NO_SLOT; slots.words(shape.kv_heads) as usize];
    for head in 0..shape.kv_heads as usize {
        for table in &cache.tables {
            for (block, &physical) in (0..).zip(table) {
                if !is_in_window(block) && !lies_nowhere(head, block) {
                    hot_slots[head * slots.pool_blocks as usize + physical as usize] = 0;
                }
            }
        }
    }
    let step = cache.hot_step((&cache.tables, &windows), &budget, 0);
    let rows = cache.rows(&[1, 1, 1]);
    let (kv_heads, group) = (shape.kv_heads as usize, shape.group as usize);
    let (kept, stride) = (step.blocks_kept as usize, step.sealed as usize + 3);
    let chosen = choose_blocks(&rows, &shape, &budget, kept, &mut random);
    // Of each head the first or the last of its candidates.
    let ends = |at: fn(usize) -> bool| {
        let mut lists = Vec::new();
        for &(_, position) in &rows {
            let row = budget.row(position, shape.block);
            for head in 0..shape.kv_heads as usize {
                let first = if at(head) { row.sink } else { row.recent_first - row.blocks };
                lists.extend(first..first + row.blocks);
                lists.resize(lists.len() + kept - row.blocks as usize, u32::MAX);
            }
        }
        lists
    };
    let chosen = if family == "listed by the next head" { ends(|_| false) } else { chosen };
    let listed = match family {
        "nothing missed" | "listed in vain" => chosen.clone(),
        "listed by the next head" => ends(|head| head % 2 == 0),
        _ => choose_blocks(&rows, &shape, &budget, kept, &mut random),
    };
    let heads = if rank == Rank::Plain { 1 } else { group };
    let factor = if rank == Rank::Plain { shape.scale() } else { 1.0 };
    let mut scores = vec![f32::NAN; 3 * kv_heads * group * stride];
    let mut want = Vec::new();
    for (r, &(_, position)) in rows.iter().enumerate() {
        let row = budget.row(position, shape.block);
        for head in 0..kv_heads {
            let at = (r * kv_heads + head) * kept;
            let list = |lists: &[u32]| lists[at..][..row.blocks as usize].to_vec();
            let (chosen, listed) = (list(&chosen), list(&listed));
            let is_missed = |block: &u32| !listed.contains(block) || lies_nowhere(head, *block);
            let items: Vec<(u32, bool)> = (0..row.sink)
                .map(|block| (block, false))
                .chain(chosen.into_iter().map(|block| (block, is_missed(&block))))
                .chain((row.recent_first..row.sealed).map(|block| (block, false)))
                .collect();
            let mut largest: f64 = 0.0;
            for h in 0..heads {
                let at = ((r * kv_heads + head) * group + h) * stride;
                let mut logs = Vec::new();
                for &(block, is_missed) in &items {
                    let score = match family {
                        "peaked" => random.float() * 90.0,
                        "equal" => -2.0,
                        // Beside the sink no mass of what is missed is a number.
                        "hidden" => {
                            if block == 0 {
                                3e4
                            } else {
                                -3e4
                            }
                        }
                        "infinite" if block % 5 == 3 => f32::NEG_INFINITY,
                        "nan" if block % 5 == 3 => f32::NAN,
                        _ => random.float() * 3.0,
                    };
                    let score = if rank == Rank::Plain { score / factor } else { score };
                    scores[at + block as usize] = score;
                    logs.push((f64::from(factor * score), is_missed));
                }
                // What is not a number is all of it.
                let share =
                    Some(missed_share(&logs)).filter(|share| !share.is_nan()).unwrap_or(1.0);
                let is_missed = logs.iter().any(|(_, is_missed)| *is_missed);
                largest = largest.max(if is_missed { share.max(1e-30) } else { 0.0 });
            }
            want.push(largest);
        }
    }
    let score_bits = bits(&scores);
    let data = kernels::MissedMass {
        step: Data::In(&step.words),
        score_rows: Data::uniform(StrideParams { stride: stride as u32 }),
        scores: Data::In(&score_bits),
        chosen: Data::In(&chosen),
        listed: Data::In(&listed),
        hot_slots: Data::In(&hot_slots),
        missed: Data::Out(3 * kv_heads),
    };
    let spec = kernels::missed_mass(&shape, rank, slots);
    let got = run(gpu, &spec, data, (shape.kv_heads, 3, 1)).await?.missed;
    const WHY: &str = "exp of at most 180 is within 363 ulp, in each step of joining them, and sums of all items round.";
    let epsilon = (9.0 * 363.0 + 160.0) * 2f64.powi(-23);
    // What is missed is told from nothing, however little it is: the least is 1e-30.
    let least = |want: f64| if want > 0.0 { 0.9e-30 } else { 0.0 };
    Ok(compare("missed", &got, &want, WHY, |i| want[i] * epsilon + least(want[i])))
}

// Rows of scores to choose by.
struct Scored {
    shape: Shape,
    level: u32,
    budget: Budget,
    step: Step,
    /// The position of each row.
    positions: Vec<u32>,
    stride: usize,
    scores: Vec<f32>,
}

impl Scored {
    fn new(
        shape: Shape,
        level: u32,
        family: &str,
        (blocks, tokens): (Blocks, u32),
        most_blocks: u32,
    ) -> Self {
        let mut random = Random::new(u64::from(tokens) + 7);
        // Rows with many candidates, with none beyond sink and recent, and with a single one; or with fewer.
        let last = if let Blocks::Count(_) = blocks { 6 } else { 20 };
        let lengths = [most_blocks * shape.block + 1, shape.block, last * shape.block + 5];
        let cache = Cache::new(shape, &lengths, 1, Family::Equal);
        let budget = Budget { blocks, tokens, sink_blocks: 1, recent_blocks: 4, dense_below: 0 };
        let step = cache.step(&[1, 1, 1], Some(&budget), &[], 16);
        let positions = cache.rows(&[1, 1, 1]).iter().map(|&(_, position)| position).collect();
        let mut new = Self { shape, level, budget, step, positions, stride: 0, scores: Vec::new() };
        new.stride = (0..3).map(|row| new.items(row).0).max().unwrap_or(0) as usize + 3;
        let q_heads = shape.q_heads() as usize;
        new.scores = vec![f32::NAN; 3 * q_heads * new.stride];
        for row in 0..3 {
            for head in 0..q_heads {
                for i in 0..new.items(row).0 as usize {
                    new.scores[(row * q_heads + head) * new.stride + i] = match family {
                        // Few distinct values, equal over the heads of a group, so that exact ties abound.
                        "ties" => (i * 7 % 5) as f32,
                        "equal" => 1.0,
                        "peaked" => random.float() * 90.0,
                        "nan" if head % shape.group as usize == 1 && i % 11 == 3 => f32::NAN,
                        "infinite" if i == 13 => f32::NEG_INFINITY,
                        // Relative to another one, its exponential would be infinite.
                        "lone" if i == 200 => 300.0,
                        // And beyond what a workgroup takes at once.
                        "lone" if i == 1090 => 600.0,
                        "lone" => 0.0,
                        _ => random.float() * 3.0,
                    };
                }
            }
        }
        new
    }

    // Of a row: its items, those that are eligible, and how many are chosen.
    fn items(&self, row: usize) -> (u32, u32, u32, u32) {
        let budget = self.budget.row(self.positions[row], self.shape.block);
        if self.level == 1 {
            (budget.sealed, budget.sink, budget.recent_first, budget.blocks)
        } else {
            let items = budget.blocks * self.shape.block;
            (items, 0, items, budget.tokens)
        }
    }

    // The scores of a KV head's query heads.
    fn heads(&self, row: usize, kv_head: usize) -> Vec<&[f32]> {
        let group = self.shape.group as usize;
        let first = row * self.shape.q_heads() as usize + kv_head * group;
        let count = self.items(row).0 as usize;
        (first..first + group).map(|head| &self.scores[head * self.stride..][..count]).collect()
    }

    // exp of at most 180 is within 363 ulp, and sums of all items round.
    fn epsilon(&self, row: usize) -> f64 {
        (363.0 + f64::from(self.items(row).0.max(2560))) * 2f64.powi(-22)
    }

    // Whether each query head's terms are its largest score, and 1 / (GROUP * the sum of exponentials relative to it).
    fn check_terms(&self, terms: &[u32]) -> Verdict {
        const WHY: &str = "exp of at most 180 is within 363 ulp, and sums of all items round.";
        let (heads, group) = (self.shape.q_heads() as usize, self.shape.group as usize);
        for (row, terms) in terms.chunks(heads * 2).enumerate() {
            // A row that keeps none ranks no tokens, and one that keeps all of these does not either.
            let (_, from, to, kept) = self.items(row);
            if kept == 0 || self.level == 2 && kept == to - from {
                untouched(&format!("row {row} terms"), terms)?;
                continue;
            }
            let all = (0..heads).step_by(group).flat_map(|head| self.heads(row, head / group));
            let of_head = |scores: &[f32]| {
                let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let weight = |&x: &f32| (f64::from(x) - f64::from(most)).exp();
                let sum: f64 = scores.iter().map(weight).sum();
                [f64::from(most), 1.0 / (sum * group as f64)]
            };
            let want: Vec<f64> = all.flat_map(of_head).collect();
            let off =
                |i: usize| if i.is_multiple_of(2) { 0.0 } else { want[i] * self.epsilon(row) };
            compare(&format!("row {row} terms"), terms, &want, WHY, off)?;
        }
        Ok(())
    }

    fn kind(&self) -> Items {
        if self.level == 1 { Items::Blocks } else { Items::Tokens }
    }

    // What head_sums makes.
    async fn terms(&self, gpu: &Gpu) -> Result<Vec<u32>> {
        let (shape, scores) = (&self.shape, bits(&self.scores));
        let sums = kernels::HeadSums {
            step: Data::In(&self.step.words),
            score_rows: Data::uniform(StrideParams { stride: self.stride as u32 }),
            scores: Data::In(&scores),
            head_terms: Data::Out(3 * shape.q_heads() as usize * 2),
        };
        let spec = kernels::head_sums(gpu.tier, shape, self.kind());
        Ok(run(gpu, &spec, sums, (shape.q_heads(), 3, 1)).await?.head_terms)
    }

    // What head_ranks makes of them.
    async fn ranks(&self, gpu: &Gpu, terms: &[u32]) -> Result<Vec<u32>> {
        let (shape, scores) = (&self.shape, bits(&self.scores));
        let ranks = kernels::HeadRanks {
            step: Data::In(&self.step.words),
            score_rows: Data::uniform(StrideParams { stride: self.stride as u32 }),
            scores: Data::In(&scores),
            head_terms: Data::In(terms),
            keys: Data::Out(3 * shape.kv_heads as usize * self.stride),
        };
        let spec = kernels::head_ranks(gpu.tier, shape, self.kind());
        let grid = (kernels::HEAD_RANKS_WORKGROUPS, shape.kv_heads, 3);
        Ok(run(gpu, &spec, ranks, grid).await?.keys)
    }
}

async fn head_ranks(
    gpu: &Gpu,
    shape: Shape,
    level: u32,
    family: &str,
    budget: (Blocks, u32),
    most_blocks: u32,
) -> Result<Verdict> {
    let scored = Scored::new(shape, level, family, budget, most_blocks);
    let terms = scored.terms(gpu).await?;
    let verdict = scored.check_terms(&terms);
    if verdict.is_err() {
        return Ok(verdict);
    }
    let got = scored.ranks(gpu, &terms).await?;
    const WHY: &str = "exp of at most 180 is within 363 ulp, and sums of all items round.";
    for row in 0..3 {
        let (count, from, to, k) = scored.items(row);
        for kv_head in 0..shape.kv_heads as usize {
            let own = &got[(row * shape.kv_heads as usize + kv_head) * scored.stride..];
            let own = &own[..scored.stride];
            // Where all is kept, or nothing, nobody asks for ranks.
            let count = if k == 0 || k == to - from { 0 } else { count as usize };
            let beyond = untouched("after the ranks", &own[count..]);
            if count == 0 || beyond.is_err() {
                if beyond.is_err() {
                    return Ok(beyond);
                }
                continue;
            }
            let want = softmax_mean(&scored.heads(row, kv_head));
            let epsilon = scored.epsilon(row);
            let part = format!("row {row} head {kv_head}");
            // Below what f32 holds normal, anything.
            let verdict =
                compare(&part, &own[..count], &want, WHY, |i| want[i].abs() * epsilon + 1e-36);
            if verdict.is_err() {
                return Ok(verdict);
            }
        }
    }
    Ok(Ok(()))
}

async fn top_k(
    gpu: &Gpu,
    (kernel, shape): (&str, Shape),
    (level, rank): (u32, Rank),
    family: &str,
    budget: (Blocks, u32),
    most_blocks: u32,
) -> Result<Verdict> {
    let scored = Scored::new(shape, level, family, budget, most_blocks);
    let (step, stride, kv_heads) = (&scored.step, scored.stride, shape.kv_heads as usize);
    let kept = if level == 1 { step.blocks_kept } else { step.tokens_kept } as usize;
    // Level 2 writes positions: candidate blocks are every second one.
    let chosen_blocks: Vec<u32> =
        (0..3 * kv_heads as u32).flat_map(|_| (0..step.blocks_kept).map(|i| 1 + 2 * i)).collect();
    let score_bits = bits(&scored.scores);
    let out_words = (3 * kv_heads * kept).max(1);
    let is_shuffled = kernel == "top_k_shuffled";
    let tier = if is_shuffled { of_32() } else { gpu.tier };
    let is_apart = kernels::ranks_apart(&shape, rank);
    // Level 2 divides by what softmaxes blocks, where these rank so.
    let divisor = if rank == Rank::Softmax { Divisor::Blocks } else { Divisor::Candidates };
    let keeps_terms = level == 1 && rank == Rank::Softmax && !is_apart;
    let mut spec = match level {
        1 => kernels::top_k_blocks(tier, &shape, (rank, divisor), None),
        _ => kernels::top_k_tokens(tier, &shape, Divisor::Candidates),
    };
    if is_shuffled {
        spec = in_eights(gpu, spec, &[("SUBGROUP", 8), ("LANES", 64), ("HELD", 1024)])?;
    }
    let made = if is_apart {
        scored.ranks(gpu, &scored.terms(gpu).await?).await?
    } else {
        vec![POISON; 3 * kv_heads * stride]
    };
    let data = kernels::TopK {
        step: Data::In(&step.words),
        score_rows: Data::uniform(StrideParams { stride: stride as u32 }),
        scores: Data::In(&score_bits),
        keys: Data::InOut(&made),
        chosen: Data::Out(out_words),
        chosen_blocks: (level == 2).then_some(Data::In(&chosen_blocks)),
        hot_slots: None,
        head_terms: keeps_terms.then_some(Data::Out(3 * shape.q_heads() as usize * 2)),
    };
    let result = run(gpu, &spec, data, (shape.kv_heads, 3, 1)).await?;
    if let (Some(terms), false) = (result.head_terms, family == "nan") {
        let verdict = scored.check_terms(&terms);
        if verdict.is_err() {
            return Ok(verdict);
        }
    }
    let out = result.chosen;
    for row in 0..3 {
        let (count, from, to, k) = scored.items(row);
        for head in 0..kv_heads {
            let got = &out[(row * kv_heads + head) * kept..][..kept];
            let beyond = untouched("after the chosen", &got[k as usize..]);
            if beyond.is_err() {
                return Ok(beyond);
            }
            let chosen: Vec<usize> = got[..k as usize]
                .iter()
                .map(|&v| match level {
                    1 => v as usize,
                    _ => ((v / shape.block - 1) / 2 * shape.block + v % shape.block) as usize,
                })
                .map(|i| i.wrapping_sub(from as usize))
                .collect();
            if count == 0 {
                continue;
            }
            let heads = scored.heads(row, head);
            let mean = if rank == Rank::Plain {
                heads[0].iter().map(|&score| f64::from(score)).collect()
            } else {
                softmax_mean(&heads)
            };
            let epsilon = scored.epsilon(row);
            let eligible = &mean[from as usize..to as usize];
            let word = |i: usize| match (level, from + i as u32) {
                (1, block) => block,
                (_, token) => (token / shape.block * 2 + 1) * shape.block + token % shape.block,
            };
            let want: Vec<u32> =
                crate::attention::top_k(eligible, k as usize).into_iter().map(word).collect();
            // Everything is kept, whatever the scores.
            let is_all = k == to - from;
            if is_all || is_run() || is_clear(eligible, k as usize, epsilon) {
                let verdict =
                    same_words(&format!("row {row} head {head}"), &got[..k as usize], &want);
                if is_all && verdict.is_err() {
                    return Ok(verdict);
                }
                if verdict.is_ok() {
                    continue;
                }
            }
            if !is_run() {
                continue;
            }
            let verdict = check_top_k(&chosen, eligible, k as usize, epsilon);
            if let Err(problem) = verdict {
                return Ok(Err(format!("row {row} head {head}: {problem}")));
            }
        }
    }
    Ok(Ok(()))
}

// Whether which are the largest is beyond doubt: those that are nearly as large as the least of them are exactly so.
fn is_clear(scores: &[f64], k: usize, epsilon: f64) -> bool {
    let mut sorted = scores.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let Some(&least) = sorted.get(k.wrapping_sub(1)) else { return k == 0 };
    let is_near = |score: &&f64| {
        let most = score.abs().max(least.abs());
        let is_far = (**score - least).abs() > most * epsilon + 1e-30;
        !is_far && **score != least
    };
    least.is_finite() && !scores.iter().any(|score| is_near(&score))
}
