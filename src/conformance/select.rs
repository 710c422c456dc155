//! Cases of `query_codes`, `block_score`, `token_score` and `top_k`.

use super::cache::{Cache, Family, shape_label, shapes};
use super::index::random_channels;
use super::rig::{Data, POISON, Random, bits, compare, run, untouched};
use super::{Case, Verdict};
use crate::Result;
use crate::attention::{Blocks, Budget, Shape};
use crate::gpu::Gpu;
use crate::kernels;
use crate::reference::index::{code_logit, pack_codes};
use crate::reference::select::{check_top_k, softmax_mean};

pub(super) fn cases(cases: &mut Vec<Case>) {
    for shape in shapes() {
        let label = shape_label(&shape);
        cases.push(Case::new("query_codes", label.clone(), true, move |gpu| {
            Box::pin(query_codes(gpu, shape))
        }));
        for segments in [1, 3] {
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
    for level in [1, 2] {
        for family in ["random", "ties", "equal", "peaked", "nan", "infinite"] {
            for (blocks, tokens) in [(1, 1), (3, 100), (16, 256), (1000, 5000)] {
                let shape = shapes[if family == "random" { 4 } else { 1 }];
                let label = format!("level {level} {family} blocks {blocks} tokens {tokens}");
                cases.push(Case::new("top_k", label, true, move |gpu| {
                    Box::pin(top_k(gpu, shape, level, family, blocks, tokens))
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
    let row_words = Shape::CHANNELS as usize / 4;
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
            let codes = &results[0][at * row_words..][..row_words];
            for (c, want) in exact.iter().enumerate() {
                let code = f64::from((codes[c / 4] >> (8 * (c % 4))) as u8 as i8);
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
    let lengths = [20 * 64 + 9, 65, 64];
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
        (shape.q_heads() as usize, shape.kv_heads as usize, Shape::BLOCK as usize);
    let count = Shape::CHANNELS as usize;
    let queries: Vec<Vec<i8>> = (0..3 * q_heads)
        .map(|_| (0..count).map(|_| (random.below(255) as i32 - 127) as i8).collect())
        .collect();
    let query_words: Vec<u32> = queries
        .iter()
        .flat_map(|q| {
            q.chunks(4)
                .map(|c| u32::from_le_bytes([c[0] as u8, c[1] as u8, c[2] as u8, c[3] as u8]))
        })
        .collect();
    let scales: Vec<f32> = (0..3 * q_heads).map(|_| 0.001 + random.float().abs()).collect();
    let scale_bits = bits(&scales);
    // The codes of every token of every physical block.
    let codes: Vec<Vec<u8>> = (0..segments * cache.blocks_a_segment)
        .map(|_| (0..kv_heads * block * count).map(|_| random.below(16) as u8).collect())
        .collect();
    let kept = step.blocks_kept as usize;
    let stride = if level == 1 { step.closed as usize + 2 } else { kept * block + 3 };
    let mut chosen = vec![u32::MAX; 3 * kv_heads * kept];
    for (r, &(_, position)) in rows.iter().enumerate() {
        let row = budget.row(position);
        for head in 0..kv_heads {
            let mut pool: Vec<u32> = (row.sink..row.recent_first).collect();
            while pool.len() > row.blocks as usize {
                pool.remove(random.below(pool.len() as u32) as usize);
            }
            chosen[(r * kv_heads + head) * kept..][..pool.len()].copy_from_slice(&pool);
        }
    }
    let mut out = vec![POISON; 3 * q_heads * stride];
    for segment in 0..segments {
        let params = cache.segment(segment);
        let first = (segment * cache.blocks_a_segment) as usize;
        let words: Vec<u32> = codes[first..first + cache.blocks_a_segment as usize]
            .iter()
            .flat_map(|b| pack_codes(b))
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
            (kernels::block_score(&shape), step.closed.div_ceil(4))
        } else {
            data.push(Data::In(&chosen));
            (kernels::token_score(&shape), step.blocks_kept.div_ceil(4))
        };
        data.push(Data::InOut(&out));
        data.push(Data::Uniform(&layout));
        out = run(gpu, &spec, &data, (x, shape.kv_heads, 3)).await?.remove(0);
    }
    for (r, &(sequence, position)) in rows.iter().enumerate() {
        let row = budget.row(position);
        for head in 0..q_heads {
            let kv_head = head / shape.group as usize;
            let query = &queries[r * q_heads + head];
            let logit = |logical: u32, token: usize| {
                let codes = &codes[cache.tables[sequence][logical as usize] as usize];
                code_logit(query, &codes[(kv_head * block + token) * count..][..count])
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

async fn top_k(
    gpu: &Gpu,
    shape: Shape,
    level: u32,
    family: &str,
    blocks: u32,
    tokens: u32,
) -> Result<Verdict> {
    let mut random = Random::new(u64::from(blocks) + 7);
    // Rows with many candidates, with none beyond sink and recent, and with a single one.
    let lengths = [40 * 64 + 1, 64, 6 * 64 + 5];
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
        let row = budget.row(position);
        if level == 1 {
            (row.closed, row.sink, row.recent_first, row.blocks)
        } else {
            let items = row.blocks * Shape::BLOCK;
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
        kernels::top_k_blocks(gpu.tier, &shape)
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
                .map(|&v| {
                    if level == 1 { v as usize } else { ((v / 64 - 1) / 2 * 64 + v % 64) as usize }
                })
                .map(|i| i.wrapping_sub(from as usize))
                .collect();
            if count == 0 {
                continue;
            }
            let heads: Vec<&[f32]> = (0..group)
                .map(|h| &scores[(r * q_heads + head * group + h) * stride..][..count as usize])
                .collect();
            let mean = softmax_mean(&heads);
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
