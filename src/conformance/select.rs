//! Cases of `query_codes`, `block_score`, `token_score` and `top_k`.

use super::cache::{Cache, Family, index_shapes, shape_label, shapes};
use super::index::random_channels;
use super::rig::{Data, POISON, Random, bits, compare, run, untouched};
use super::{Case, Verdict};
use crate::Result;
use crate::attention::{BlockScorer, Blocks, Budget, Shape};
use crate::gpu::Gpu;
use crate::kernels;
use crate::reference::index::{bounds, code_logit, pack_codes, pack_query, unpack_query};
use crate::reference::model::dot;
use crate::reference::select::{bounds_score, check_top_k, log_sum_exp, softmax_mean};

pub(super) fn cases(cases: &mut Vec<Case>) {
    for shape in index_shapes() {
        let label = shape_label(&shape);
        cases.push(Case::new("query_codes", label.clone(), true, move |gpu| {
            Box::pin(query_codes(gpu, shape))
        }));
        for segments in [1, 3] {
            for (kernel, shares_memory) in
                [("bounds_score", true), ("exact_block_score", true), ("exact_token_score", false)]
            {
                for family in [Family::Random, Family::Peaked] {
                    cases.push(Case::new(
                        kernel,
                        format!("{label} segments {segments} {family:?}"),
                        shares_memory,
                        move |gpu| Box::pin(key_scores(gpu, shape, segments, kernel, family)),
                    ));
                }
            }
            for level in [1, 2] {
                let kernel = if level == 1 { "block_score" } else { "token_score" };
                cases.push(Case::new(
                    kernel,
                    format!("{label} segments {segments}"),
                    level == 1,
                    move |gpu| Box::pin(scores(gpu, shape, segments, level)),
                ));
            }
        }
    }
    let shapes = shapes();
    for (level, scorer) in
        [(1, BlockScorer::Codes), (1, BlockScorer::MinMax), (2, BlockScorer::Codes)]
    {
        for family in ["random", "ties", "equal", "peaked", "nan", "infinite"] {
            for (blocks, tokens) in [(1, 1), (3, 100), (16, 256), (1000, 5000)] {
                let shape = match family {
                    "random" => shapes[4],
                    "ties" => Shape { block: 16, ..shapes[1] },
                    _ => shapes[1],
                };
                let label =
                    format!("level {level} {scorer} {family} blocks {blocks} tokens {tokens}");
                cases.push(Case::new("top_k", label, true, move |gpu| {
                    Box::pin(top_k(gpu, shape, (level, scorer), family, (blocks, tokens)))
                }));
            }
        }
    }
}

async fn query_codes(gpu: &Gpu, shape: Shape) -> Result<Verdict> {
    let mut random = Random::new(21);
    let cache = Cache::new(shape, &[65, 3], 1, Family::Equal);
    let step = cache.step(&[1, 1], None, &[], 16);
    let (channels, words) = random_channels(&shape, 2, &mut random);
    let width = shape.qkv_width() as usize;
    let mut qkv = random.floats(2 * width);
    // A query of zeros has no scale.
    let d = shape.head_dim as usize;
    qkv[width..width + d].fill(0.0);
    let q_heads = shape.q_heads() as usize;
    let row_words = shape.index.channels as usize / 4;
    let qkv_bits = bits(&qkv);
    let data = [
        Data::In(&step.words),
        Data::In(&qkv_bits),
        Data::In(&words),
        Data::Out(2 * q_heads * row_words),
        Data::Out(2 * q_heads),
    ];
    let results = run(gpu, &kernels::query_codes(&shape), &data, (shape.q_heads(), 2, 1)).await?;
    for row in 0..2 {
        for head in 0..q_heads {
            let query = &qkv[row * width + head * d..][..d];
            let (exact, scale) = channels
                [row * shape.kv_heads as usize + head / shape.group as usize]
                .exact_query(query);
            let at = row * q_heads + head;
            let verdict =
                compare("scale", &results[1][at..], &[scale * f64::from(shape.scale())], |_| {
                    scale * 1e-6 + 1e-30
                });
            if verdict.is_err() {
                return Ok(verdict);
            }
            let codes = unpack_query(&results[0][at * row_words..][..row_words], shape.index);
            for (c, (code, want)) in codes.into_iter().zip(&exact).enumerate() {
                let code = f64::from(code);
                // Half a code, and the rounding of two products and a division: 127 * 4 ulp.
                if (code - want).abs() > 0.5 + 1e-4 {
                    return Ok(Err(format!(
                        "row {row} head {head} channel {c}: code {code}, not {want}"
                    )));
                }
            }
        }
    }
    Ok(Ok(()))
}

async fn scores(gpu: &Gpu, shape: Shape, segments: u32, level: u32) -> Result<Verdict> {
    let mut random = Random::new(41);
    // 20 closed blocks, exactly one, none.
    let lengths = [20 * shape.block + 9, shape.block + 1, shape.block];
    let cache = Cache::new(shape, &lengths, segments, Family::Equal);
    let budget = Budget {
        blocks: Blocks::Count(5),
        tokens: 9,
        sink_blocks: 1,
        recent_blocks: 2,
        dense_below: 0,
    };
    let step = cache.step(&[1, 1, 1], Some(&budget), &[], 16);
    let rows = cache.rows(&[1, 1, 1]);
    let (q_heads, kv_heads, block) =
        (shape.q_heads() as usize, shape.kv_heads as usize, shape.block as usize);
    let count = shape.index.channels as usize;
    let queries: Vec<Vec<i8>> = (0..3 * q_heads)
        .map(|_| (0..count).map(|_| (random.below(255) as i32 - 127) as i8).collect())
        .collect();
    let query_words: Vec<u32> = queries.iter().flat_map(|q| pack_query(q, shape.index)).collect();
    let scales: Vec<f32> = (0..3 * q_heads).map(|_| 0.001 + random.float().abs()).collect();
    let scale_bits = bits(&scales);
    // The codes of every token of every physical block.
    let codes: Vec<Vec<u8>> = (0..segments * cache.blocks_a_segment)
        .map(|_| {
            let codes = 0..kv_heads * block * count;
            codes.map(|_| random.below(shape.index.largest() + 1) as u8).collect()
        })
        .collect();
    let kept = step.blocks_kept as usize;
    let stride = if level == 1 { step.closed as usize + 2 } else { kept * block + 3 };
    let chosen = choose_blocks(&rows, &shape, &budget, kept, &mut random);
    let mut out = vec![POISON; 3 * q_heads * stride];
    for segment in 0..segments {
        let params = cache.segment(segment);
        let first = (segment * cache.blocks_a_segment) as usize;
        let words: Vec<u32> = codes[first..first + cache.blocks_a_segment as usize]
            .iter()
            .flat_map(|b| b.chunks(count))
            .flat_map(|token| pack_codes(token, shape.index))
            .collect();
        let layout = [stride as u32];
        let mut data = vec![
            Data::In(&step.words),
            Data::Uniform(bytemuck::cast_slice(bytemuck::bytes_of(&params))),
            Data::In(&query_words),
            Data::In(&scale_bits),
            Data::In(&words),
        ];
        let (spec, x) = if level == 1 {
            (kernels::block_score(&shape), step.closed.div_ceil(kernels::SCORED_BLOCKS))
        } else {
            data.push(Data::In(&chosen));
            (kernels::token_score(&shape), step.blocks_kept.div_ceil(4))
        };
        data.push(Data::InOut(&out));
        data.push(Data::Uniform(&layout));
        out = run(gpu, &spec, &data, (x, shape.kv_heads, 3)).await?.remove(0);
    }
    for (r, &(sequence, position)) in rows.iter().enumerate() {
        let row = budget.row(position, shape.block);
        for head in 0..q_heads {
            let kv_head = head / shape.group as usize;
            let query = &queries[r * q_heads + head];
            let logit = |logical: u32, token: usize| {
                let codes = &codes[cache.tables[sequence][logical as usize] as usize];
                let token = &codes[(kv_head * block + token) * count..][..count];
                code_logit(query, token, shape.index)
            };
            let scale = f64::from(scales[r * q_heads + head]);
            let want: Vec<f64> = if level == 1 {
                (0..row.closed)
                    .map(|b| f64::from((0..block).map(|t| logit(b, t)).max().unwrap_or(0)) * scale)
                    .collect()
            } else {
                chosen[(r * kv_heads + kv_head) * kept..][..row.blocks as usize]
                    .iter()
                    .flat_map(|&b| (0..block).map(move |t| (b, t)))
                    .map(|(b, t)| f64::from(logit(b, t)) * scale)
                    .collect()
            };
            let got = &out[(r * q_heads + head) * stride..][..stride];
            // The logit is an exact integer; one product rounds.
            let verdict = compare(&format!("row {r} head {head}"), got, &want, |i| {
                want[i].abs() * 2f64.powi(-23)
            })
            .and(untouched("after the scores", &got[want.len()..]));
            if verdict.is_err() {
                return Ok(verdict);
            }
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

// The oracle scorers and the bounds, whose inputs are the cache itself.
async fn key_scores(
    gpu: &Gpu,
    shape: Shape,
    segments: u32,
    kernel: &'static str,
    family: Family,
) -> Result<Verdict> {
    let mut random = Random::new(43);
    let lengths = [20 * shape.block + 9, shape.block + 1, shape.block];
    let cache = Cache::new(shape, &lengths, segments, family);
    let budget = Budget {
        blocks: Blocks::Count(5),
        tokens: 9,
        sink_blocks: 1,
        recent_blocks: 2,
        dense_below: 0,
    };
    let step = cache.step(&[1, 1, 1], Some(&budget), &[], 16);
    let rows = cache.rows(&[1, 1, 1]);
    let (q_heads, kv_heads, group) =
        (shape.q_heads() as usize, shape.kv_heads as usize, shape.group as usize);
    let (d, width) = (shape.head_dim as usize, shape.qkv_width() as usize);
    let qkv = random.floats(3 * width);
    let qkv_bits = bits(&qkv);
    let kept = step.blocks_kept as usize;
    let of_tokens = kernel == "exact_token_score";
    let stride = if of_tokens { kept * shape.block as usize + 3 } else { step.closed as usize + 2 };
    let chosen = choose_blocks(&rows, &shape, &budget, kept, &mut random);
    let layout = [stride as u32];
    let mut out = vec![POISON; 3 * q_heads * stride];
    for segment in 0..segments {
        let params = cache.segment(segment);
        let params = bytemuck::cast_slice(bytemuck::bytes_of(&params));
        let stored = match kernel {
            "bounds_score" => cache.bounds_words(segment),
            _ => cache.segment_words(segment),
        };
        let mut data = vec![
            Data::In(&step.words),
            Data::Uniform(params),
            Data::In(&qkv_bits),
            Data::In(&stored),
        ];
        let (spec, x) = match kernel {
            "bounds_score" => (kernels::bounds_score(&shape), step.closed.div_ceil(4)),
            "exact_block_score" => (kernels::exact_block_score(&shape), step.closed),
            _ => {
                data.push(Data::In(&chosen));
                (kernels::exact_token_score(&shape), step.blocks_kept)
            }
        };
        data.push(Data::InOut(&out));
        data.push(Data::Uniform(&layout));
        out = run(gpu, &spec, &data, (x, shape.kv_heads, 3)).await?.remove(0);
    }
    // Products and sums of d terms round; what rounds is at most their absolute sum.
    let rounding = f64::from(shape.head_dim + 8) * 2f64.powi(-23);
    for (r, &(sequence, position)) in rows.iter().enumerate() {
        let row = budget.row(position, shape.block);
        for head in 0..q_heads {
            let kv_head = head / group;
            let query = &qkv[r * width + head * d..][..d];
            let key = |t: u32| cache.key(sequence, kv_head, t);
            let logit = |t: u32| dot(query, key(t)) * f64::from(shape.scale());
            let size = |t: u32| {
                let products = query.iter().zip(key(t)).map(|(a, b)| f64::from((a * b).abs()));
                products.sum::<f64>() * f64::from(shape.scale())
            };
            let tokens = |b: u32| b * shape.block..(b + 1) * shape.block;
            // The value of each item, and what its rounding is relative to.
            let want: Vec<(f64, f64)> = match kernel {
                "exact_token_score" => chosen[(r * kv_heads + kv_head) * kept..]
                    [..row.blocks as usize]
                    .iter()
                    .flat_map(|&b| tokens(b))
                    .map(|t| (logit(t), size(t)))
                    .collect(),
                "exact_block_score" => (0..row.closed)
                    .map(|b| {
                        let logits: Vec<f64> = tokens(b).map(logit).collect();
                        // The sum of exponentials and its logarithm are within a few ulp of at most ln 128 = 5.
                        (log_sum_exp(&logits), tokens(b).map(size).fold(5.0, f64::max))
                    })
                    .collect(),
                // Only a group's first head holds a score.
                _ if !head.is_multiple_of(group) => Vec::new(),
                _ => (0..row.closed)
                    .map(|b| {
                        let keys: Vec<&[f32]> = tokens(b).map(key).collect();
                        let (low, high) = bounds(&keys);
                        let queries: Vec<&[f32]> =
                            (0..group).map(|h| &qkv[r * width + (head + h) * d..][..d]).collect();
                        let largest: Vec<f32> =
                            low.iter().zip(&high).map(|(l, h)| l.abs().max(h.abs())).collect();
                        let sizes = queries.iter().map(|q| {
                            let products = q.iter().zip(&largest);
                            products.map(|(a, b)| f64::from(a.abs() * b)).sum::<f64>()
                        });
                        (bounds_score(&queries, &low, &high), sizes.sum())
                    })
                    .collect(),
            };
            let values: Vec<f64> = want.iter().map(|w| w.0).collect();
            let got = &out[(r * q_heads + head) * stride..][..stride];
            let verdict =
                compare(&format!("row {r} head {head}"), got, &values, |i| want[i].1 * rounding)
                    .and(untouched("after the scores", &got[want.len()..]));
            if verdict.is_err() {
                return Ok(verdict);
            }
        }
    }
    Ok(Ok(()))
}

async fn top_k(
    gpu: &Gpu,
    shape: Shape,
    (level, scorer): (u32, BlockScorer),
    family: &str,
    (blocks, tokens): (u32, u32),
) -> Result<Verdict> {
    let mut random = Random::new(u64::from(blocks) + 7);
    // Rows with many candidates, with none beyond sink and recent, and with a single one.
    let lengths = [40 * shape.block + 1, shape.block, 6 * shape.block + 5];
    let cache = Cache::new(shape, &lengths, 1, Family::Equal);
    let budget = Budget {
        blocks: Blocks::Count(blocks),
        tokens,
        sink_blocks: 1,
        recent_blocks: 4,
        dense_below: 0,
    };
    let step = cache.step(&[1, 1, 1], Some(&budget), &[], 16);
    let rows = cache.rows(&[1, 1, 1]);
    let (q_heads, kv_heads, group) =
        (shape.q_heads() as usize, shape.kv_heads as usize, shape.group as usize);
    let items = |position| {
        let row = budget.row(position, shape.block);
        if level == 1 {
            (row.closed, row.sink, row.recent_first, row.blocks)
        } else {
            let items = row.blocks * shape.block;
            (items, 0, items, row.tokens)
        }
    };
    let stride = rows.iter().map(|&(_, p)| items(p).0).max().unwrap_or(0) as usize + 3;
    let mut scores = vec![f32::NAN; 3 * q_heads * stride];
    for (r, &(_, position)) in rows.iter().enumerate() {
        for head in 0..q_heads {
            for i in 0..items(position).0 as usize {
                scores[(r * q_heads + head) * stride + i] = match family {
                    // Few distinct values, equal over the heads of a group, so that exact ties abound.
                    "ties" => (i * 7 % 5) as f32,
                    "equal" => 1.0,
                    "peaked" => random.float() * 90.0,
                    "nan" if head % group == 1 && i % 11 == 3 => f32::NAN,
                    "infinite" if i == 13 => f32::NEG_INFINITY,
                    _ => random.float() * 3.0,
                };
            }
        }
    }
    let kept = if level == 1 { step.blocks_kept } else { step.tokens_kept } as usize;
    // Level 2 writes positions: candidate blocks are every second one.
    let chosen_blocks: Vec<u32> =
        (0..3 * kv_heads as u32).flat_map(|_| (0..step.blocks_kept).map(|i| 1 + 2 * i)).collect();
    let layout = [stride as u32, stride as u32];
    let score_bits = bits(&scores);
    let out_words = (3 * kv_heads * kept).max(1);
    let mut data = vec![
        Data::In(&step.words),
        Data::Uniform(&layout),
        Data::In(&score_bits),
        Data::Out(3 * kv_heads * stride),
        Data::Out(out_words),
    ];
    let spec = if level == 1 {
        kernels::top_k_blocks(gpu.tier, &shape, scorer)
    } else {
        data.push(Data::In(&chosen_blocks));
        kernels::top_k_tokens(gpu.tier, &shape)
    };
    let out = run(gpu, &spec, &data, (shape.kv_heads, 3, 1)).await?.remove(1);
    for (r, &(_, position)) in rows.iter().enumerate() {
        let (count, from, to, k) = items(position);
        for head in 0..kv_heads {
            let got = &out[(r * kv_heads + head) * kept..][..kept];
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
            let heads: Vec<&[f32]> = (0..group)
                .map(|h| &scores[(r * q_heads + head * group + h) * stride..][..count as usize])
                .collect();
            let mean = if scorer == BlockScorer::MinMax {
                heads[0].iter().map(|&score| f64::from(score)).collect()
            } else {
                softmax_mean(&heads)
            };
            if k == to - from {
                // Everything is kept, whatever the scores.
                if chosen != (0..k as usize).collect::<Vec<_>>() {
                    return Ok(Err(format!("row {r} head {head}: {chosen:?} instead of all {k}")));
                }
                continue;
            }
            // exp of at most 180 is within 363 ulp, and sums of up to 2,560 items round.
            let epsilon = (363.0 + 2560.0) * 2f64.powi(-22);
            let verdict =
                check_top_k(&chosen, &mean[from as usize..to as usize], k as usize, epsilon);
            if let Err(problem) = verdict {
                return Ok(Err(format!("row {r} head {head}: {problem}")));
            }
        }
    }
    Ok(Ok(()))
}
