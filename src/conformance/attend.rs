//! Cases of `dense_split`, `sparse_split`, `merge` and `prefill`.

use super::cache::{Cache, Family, Lie, latent_shapes, shape_label, shapes, sizes};
use super::rig::{CAPPED, Data, POISON, Random, bits, cap_error, compare, run};
use super::{Case, Verdict};
use crate::Result;
use crate::attention::{Attended, Blocks, Budget, Shape, Step};
use crate::contract::{StepHeader, Words};
use crate::gpu::Gpu;
use crate::kernels::{self, MergeParams, Place};
use crate::reference::attend::attention;

pub(super) fn cases(cases: &mut Vec<Case>) {
    // The cache's contents, and over how many segments they go.
    let contents = [
        (1, Family::Random),
        (3, Family::Random),
        (3, Family::Peaked),
        (3, Family::Equal),
        (3, Family::NotFinite),
    ];
    for shape in shapes() {
        for lengths in small_batches(shape.block) {
            attend_cases(cases, shape, &lengths, 1, Family::Random);
        }
        for (segments, family) in contents {
            attend_cases(cases, shape, &large_batch(shape.block), segments, family);
        }
    }
    // Prompts go through blocks in order, piece after piece, where the cache is in CPU memory.
    for shape in sizes() {
        let lengths = [5 * shape.block + 13];
        kernel_cases(cases, &["prefill"], shape, &lengths, 3, Family::Random);
    }
    // Sizes matter where data is laid out, not for what it holds.
    for shape in sizes() {
        attend_cases(cases, shape, &large_batch(shape.block), 3, Family::Random);
    }
    // Latent attention decodes over latent rows, and prefills over keys and values made from them.
    for shape in latent_shapes() {
        for lengths in small_batches(shape.block) {
            decode_cases(cases, shape, &lengths, 1, Family::Random);
        }
        for (segments, family) in contents {
            decode_cases(cases, shape, &large_batch(shape.block), segments, family);
        }
    }
    // Sliding windows: shorter than a block and a tile of keys, a block, no multiple of one, longer than every sequence.
    for shape in shapes().into_iter().step_by(3) {
        let block = shape.block;
        let batch = large_batch(block);
        for window in [1, 9, block, 2 * block + 37, 100 * block] {
            window_cases(cases, shape, &batch, window);
        }
        // Prompts of one sequence alone lie in order.
        window_cases(cases, shape, &batch[..1], block + 21);
    }
    for shape in sizes() {
        window_cases(cases, shape, &large_batch(shape.block), shape.block + 21);
    }
    // Soft-caps that matter: of small logits, of large ones, and of what is not finite.
    for shape in shapes().into_iter().step_by(3).chain(sizes().into_iter().step_by(2)) {
        for (cap, family) in [
            (0.25, Family::Random),
            (5.0, Family::Peaked),
            (5.0, Family::NotFinite),
            (5.0, Family::NotANumber),
        ] {
            let shape = Shape { softcap: Some(cap), ..shape };
            attend_cases(cases, shape, &large_batch(shape.block), 3, family);
        }
        let shape = Shape { softcap: Some(0.25), ..shape };
        window_cases(cases, shape, &large_batch(shape.block), shape.block + 21);
    }
    // Two buffers matter where data is laid out as well.
    let lies = [Lie::Apart, Lie::Roomy, Lie::HeadsFirst];
    let some = shapes().into_iter().step_by(3).chain(sizes().into_iter().step_by(2));
    for (shape, lie) in some.zip(lies.into_iter().cycle()) {
        for kernel in ["dense_split", "sparse_split", "prefill"] {
            let label = format!("{} {lie:?}", shape_label(&shape));
            let (batch, contents) = (large_batch(shape.block), (3, Family::Random));
            cases.push(Case::new(kernel, label, true, move |gpu| {
                let attention = (kernel, None);
                Box::pin(
                    async move { attend(gpu, attention, (shape, lie), &batch, contents).await },
                )
            }));
        }
    }
    for shape in [Shape::new(2, 3, 64, true), Shape { block: 16, ..Shape::new(1, 4, 128, false) }]
        .into_iter()
        .chain(latent_shapes())
    {
        for segments in [1, 3] {
            let label = format!("{} segments {segments} beside other rows", shape_label(&shape));
            cases.push(Case::new("dense_split", label, true, move |gpu| {
                Box::pin(mixed(gpu, shape, segments))
            }));
        }
    }
    for head_dim in [80, 128, 256] {
        let label = format!("d{head_dim} 3 segments, 70 states, empty ones among them");
        cases.push(Case::new("merge", label, true, move |gpu| Box::pin(merge(gpu, head_dim))));
    }
}

// Ragged batches: one token, the open block only, exactly one block, one more.
fn small_batches(block: u32) -> [Vec<u32>; 3] {
    [vec![1], vec![block, block - 1], vec![block + 1, 1, 2 * block]]
}

// Several blocks, odd counts.
fn large_batch(block: u32) -> [u32; 4] {
    [5 * block + 13, block, 2 * block + 2, 7]
}

fn attend_cases(
    cases: &mut Vec<Case>,
    shape: Shape,
    lengths: &[u32],
    segments: u32,
    family: Family,
) {
    kernel_cases(
        cases,
        &["dense_split", "sparse_split", "prefill"],
        shape,
        lengths,
        segments,
        family,
    );
}

fn decode_cases(
    cases: &mut Vec<Case>,
    shape: Shape,
    lengths: &[u32],
    segments: u32,
    family: Family,
) {
    kernel_cases(cases, &["dense_split", "sparse_split"], shape, lengths, segments, family);
}

fn kernel_cases(
    cases: &mut Vec<Case>,
    kernels: &[&'static str],
    shape: Shape,
    lengths: &[u32],
    segments: u32,
    family: Family,
) {
    let label =
        format!("{} lengths {lengths:?} segments {segments} {family:?}", shape_label(&shape));
    for &kernel in kernels {
        let lengths = lengths.to_vec();
        cases.push(Case::new(kernel, label.clone(), true, move |gpu| {
            let lengths = lengths.clone();
            let (attention, contents) = ((kernel, None), (segments, family));
            let shape = (shape, Lie::Joined);
            Box::pin(async move { attend(gpu, attention, shape, &lengths, contents).await })
        }));
    }
}

fn window_cases(cases: &mut Vec<Case>, shape: Shape, lengths: &[u32], window: u32) {
    let label = format!("{} lengths {lengths:?} window {window}", shape_label(&shape));
    for kernel in ["window_split", "prefill"] {
        let lengths = lengths.to_vec();
        cases.push(Case::new(kernel, label.clone(), true, move |gpu| {
            let lengths = lengths.clone();
            let (attention, contents) = ((kernel, Some(window)), (3, Family::Random));
            let shape = (shape, Lie::Joined);
            Box::pin(async move { attend(gpu, attention, shape, &lengths, contents).await })
        }));
    }
}

pub(super) fn random_qkv(shape: &Shape, rows: usize) -> Vec<f32> {
    Random::new(99).floats(rows * shape.row_width() as usize)
}

async fn attend(
    gpu: &Gpu,
    (kernel, window): (&str, Option<u32>),
    (shape, lie): (Shape, Lie),
    lengths: &[u32],
    (segments, family): (u32, Family),
) -> Result<Verdict> {
    let cache = Cache::new(shape, lengths, segments, family).lying(lie);
    // Prefill works on up to the last 150 tokens of each sequence, decode on the last one.
    let counts: Vec<u32> =
        lengths.iter().map(|&n| if kernel == "prefill" { n.min(150) } else { 1 }).collect();
    let budget = Budget {
        blocks: Blocks::Count(2),
        tokens: 37,
        sink_blocks: 1,
        recent_blocks: 1,
        dense_below: 0,
    };
    // Rows of a layer with a window select nothing, and are planned as those of other layers.
    let sparse = matches!(kernel, "sparse_split" | "window_split").then_some(&budget);
    // Few workgroups make long splits, many make one tile a split: both must do.
    for target in [2, 4096] {
        let step = cache.step(&counts, sparse, &[], target);
        let rows = cache.rows(&counts);
        let qkv = random_qkv(&shape, rows.len());
        let (out, tokens) = if kernel == "prefill" {
            let heads = step.rows * shape.q_heads();
            let out = vec![POISON; (heads * shape.head_dim) as usize];
            let grid = (shape.q_heads(), step.tiles, 1);
            let out = run_prefill(gpu, &cache, (&step, window), &qkv, out, grid).await?;
            (out, window_tokens(&rows, shape, window))
        } else {
            let chosen = choose_tokens(&rows, &shape, &budget, &step);
            let tokens = match kernel {
                "sparse_split" => sparse_tokens(&rows, &shape, &budget, &step, &chosen),
                _ => window_tokens(&rows, shape, window),
            };
            let splits = [(kernel, step.rows)];
            let out = run_splits(gpu, &splits, &cache, (&step, window), &qkv, &chosen).await?;
            (out, tokens)
        };
        // In prefill a value that is not finite also spoils earlier rows of its tile, by 0 * NaN: only other sequences
        // are promised not to notice.
        let is_spoilt = matches!(family, Family::NotFinite | Family::NotANumber);
        let spoilt = kernel == "prefill" && is_spoilt;
        let rounds = match kernel {
            "prefill" => kernels::prefill_rounds(gpu.tier, &shape),
            _ => kernels::split_rounds(gpu.tier, &shape),
        };
        let from = usize::from(spoilt);
        let verdict = check_attention(&cache, &rows, &qkv, &out, &tokens, (from, rounds));
        if verdict.is_err() {
            return Ok(verdict.map_err(|e| format!("target {target}: {e}")));
        }
        if kernel == "prefill" {
            break;
        }
    }
    Ok(Ok(()))
}

// Rows that select, drafts among them, rows that do not and rows of a prompt, each by its kernel in one step.
async fn mixed(gpu: &Gpu, shape: Shape, segments: u32) -> Result<Verdict> {
    let lengths = large_batch(shape.block);
    let cache = Cache::new(shape, &lengths, segments, Family::Random);
    let counts = [
        (15, Attended::Selected),
        (1, Attended::Dense),
        (3, Attended::Dense),
        (5, Attended::Prompt),
    ];
    let budget = Budget {
        blocks: Blocks::Percent(40.0),
        tokens: 37,
        sink_blocks: 1,
        recent_blocks: 1,
        dense_below: 0,
    };
    for target in [2, 4096] {
        let step = cache.mixed_step(&counts, Some(&budget), &[], target);
        // Latent attention's prompts are another shape's.
        let checked = if shape.shares_values() { step.decoding } else { step.rows } as usize;
        let rows = cache.rows(&counts.map(|(count, _)| count));
        let qkv = random_qkv(&shape, rows.len());
        let (selecting, dense) = rows.split_at(step.selecting as usize);
        let chosen = choose_tokens(selecting, &shape, &budget, &step);
        let mut tokens = sparse_tokens(selecting, &shape, &budget, &step, &chosen);
        tokens.extend(window_tokens(dense, shape, None));
        let splits =
            [("sparse_split", step.selecting), ("dense_split", step.decoding - step.selecting)];
        let mut out = run_splits(gpu, &splits, &cache, (&step, None), &qkv, &chosen).await?;
        if checked > step.decoding as usize {
            let grid = (shape.q_heads(), step.prompt_tiles, 1);
            out = run_prefill(gpu, &cache, (&step, None), &qkv, out, grid).await?;
        }
        let rows = &rows[..checked];
        let rounds =
            kernels::prefill_rounds(gpu.tier, &shape) || kernels::split_rounds(gpu.tier, &shape);
        let verdict = check_attention(&cache, rows, &qkv, &out, &tokens, (0, rounds));
        if verdict.is_err() {
            return Ok(verdict.map_err(|e| format!("target {target}: {e}")));
        }
    }
    Ok(Ok(()))
}

async fn run_prefill(
    gpu: &Gpu,
    cache: &Cache,
    (step, window): (&Step, Option<u32>),
    qkv: &[f32],
    mut out: Vec<u32>,
    grid: (u32, u32, u32),
) -> Result<Vec<u32>> {
    let shape = &cache.shape;
    let mut states = vec![POISON; (step.rows * shape.q_heads()) as usize * 2];
    let qkv = bits(qkv);
    for segment in 0..cache.segments {
        let params = cache.segment(segment);
        let (kv, values) = cache.buffers(segment);
        let data = kernels::Prefill {
            step: Data::In(&step.words),
            segment: Data::uniform(params),
            qkv: Data::In(&qkv),
            kv: Data::In(&kv),
            values_in: values.as_deref().map(Data::In),
            out: Data::InOut(&out),
            states: Data::InOut(&states),
        };
        let mut spec = kernels::prefill(gpu.tier, shape, shape.row_width());
        if let Some(window) = window {
            spec = kernels::with_window(spec, window);
        }
        let spec = kernels::with_layout(spec, cache.layout);
        let results = run(gpu, &spec, data, grid).await?;
        (out, states) = (results.out, results.states);
    }
    Ok(out)
}

// What rows come to that are attended in splits, so many by each kernel.
async fn run_splits(
    gpu: &Gpu,
    splits: &[(&str, u32)],
    cache: &Cache,
    (step, window): (&Step, Option<u32>),
    qkv: &[f32],
    chosen: &[u32],
) -> Result<Vec<u32>> {
    let shape = &cache.shape;
    let states = (step.rows * shape.q_heads() * cache.segments * step.splits) as usize;
    let mut partial_o = vec![POISON; states * shape.value_dim() as usize];
    let mut partial_ml = vec![POISON; states * 2];
    let qkv = bits(qkv);
    for &(kernel, rows) in splits {
        let selects = kernel == "sparse_split";
        let spec = match window {
            Some(window) => kernels::window_split(gpu.tier, shape, window),
            None if selects => kernels::sparse_split(gpu.tier, shape, Place::Paged),
            None => kernels::dense_split(gpu.tier, shape, Place::Paged),
        };
        let spec = kernels::with_layout(spec, cache.layout);
        for segment in 0..cache.segments {
            let params = cache.segment(segment);
            let (kv, values) = cache.buffers(segment);
            let data = kernels::Split {
                step: Data::In(&step.words),
                segment: Data::uniform(params),
                qkv: Data::In(&qkv),
                kv: Data::In(&kv),
                values_in: values.as_deref().map(Data::In),
                partial_o: Data::InOut(&partial_o),
                partial_ml: Data::InOut(&partial_ml),
                chosen_tokens: selects.then_some(Data::In(chosen)),
                hot_slots: None,
            };
            let grid = (step.splits, kernels::split_workgroups(gpu.tier, shape), rows);
            let results = run(gpu, &spec, data, grid).await?;
            (partial_o, partial_ml) = (results.partial_o, results.partial_ml);
        }
    }
    let data = kernels::Merge {
        step: Data::In(&step.words),
        merge: Data::uniform(MergeParams { segments: cache.segments, count: cache.segments }),
        partial_o: Data::In(&partial_o),
        partial_ml: Data::In(&partial_ml),
        out: Data::Out((step.rows * shape.q_heads() * shape.value_dim()) as usize),
    };
    let grid = (shape.q_heads(), step.decoding, kernels::merge_parts(shape));
    Ok(run(gpu, &kernels::merge(gpu.tier, shape), data, grid).await?.out)
}

/// Tokens of each row and KV head.
pub(super) type Tokens = Vec<Vec<Vec<u32>>>;

// All tokens up to a row's own, or the latest of them.
fn window_tokens(rows: &[(usize, u32)], shape: Shape, window: Option<u32>) -> Tokens {
    let of_row =
        |position: u32| (position + 1).saturating_sub(window.unwrap_or(u32::MAX))..=position;
    rows.iter()
        .map(|&(_, position)| vec![of_row(position).collect(); shape.kv_heads as usize])
        .collect()
}

/// Random ascending candidates for each row and KV head, as level 2 would leave them.
pub(super) fn choose_tokens(
    rows: &[(usize, u32)],
    shape: &Shape,
    budget: &Budget,
    step: &Step,
) -> Vec<u32> {
    let mut random = Random::new(5);
    let mut chosen = Vec::new();
    for &(_, position) in rows {
        let row = budget.row(position, shape.block);
        for _ in 0..shape.kv_heads {
            let mut pool: Vec<u32> =
                (row.sink * shape.block..row.recent_first * shape.block).collect();
            while pool.len() > row.tokens as usize {
                pool.remove(random.below(pool.len() as u32) as usize);
            }
            pool.resize(step.tokens_kept as usize, u32::MAX);
            chosen.extend(pool);
        }
    }
    if chosen.is_empty() {
        chosen.push(0);
    }
    chosen
}

pub(super) fn sparse_tokens(
    rows: &[(usize, u32)],
    shape: &Shape,
    budget: &Budget,
    step: &Step,
    chosen: &[u32],
) -> Tokens {
    rows.iter()
        .enumerate()
        .map(|(i, &(_, position))| {
            let row = budget.row(position, shape.block);
            (0..shape.kv_heads as usize)
                .map(|head| {
                    let at = (i * shape.kv_heads as usize + head) * step.tokens_kept as usize;
                    (0..row.sink * shape.block)
                        .chain(row.recent_first * shape.block..=position)
                        .chain(chosen[at..at + row.tokens as usize].iter().copied())
                        .collect()
                })
                .collect()
        })
        .collect()
}

pub(super) fn check_attention(
    cache: &Cache,
    rows: &[(usize, u32)],
    qkv: &[f32],
    out: &[u32],
    tokens: &Tokens,
    (first, rounds): (usize, bool),
) -> Verdict {
    let shape = &cache.shape;
    let d = shape.head_dim as usize;
    for (r, &(sequence, position)) in rows.iter().enumerate().filter(|(_, row)| row.0 >= first) {
        for head in 0..shape.q_heads() as usize {
            let kv_head = head / shape.group as usize;
            let q = &qkv[r * shape.row_width() as usize + head * d..][..d];
            let tokens = &tokens[r][kv_head];
            let key = |t| cache.key(sequence, kv_head, t);
            let logit = (shape.scale(), shape.softcap);
            let want = attention(q, logit, tokens, key, |t| cache.value(sequence, kv_head, t));
            let size = tokens
                .iter()
                .map(|&t| q.iter().zip(key(t)).map(|(q, k)| f64::from((q * k).abs())).sum::<f64>())
                .filter(|s| s.is_finite())
                .fold(0.0, f64::max)
                * f64::from(shape.scale());
            let ulp = 2f64.powi(-23);
            let mut weight = size * (d as f64 + 4.0) * ulp
                + 2.0 * cap_error(shape.softcap)
                + 3.0 * (3.0 + 4.0 * size) * ulp
                + (tokens.len() as f64 + 64.0) * ulp;
            if rounds {
                let n = tokens.len() as f64;
                weight += 2.0 * size * (2f64.powi(-11) + (d as f64 + 8.0) * 2f64.powi(-22))
                    + 2f64.powi(-11)
                    + n * (2f64.powi(-22) + 2f64.powi(-32));
            }
            let what = format!("row {r} (sequence {sequence}, position {position}) head {head}");
            let at = (r * shape.q_heads() as usize + head) * want.len();
            let why = match shape.softcap {
                None => why(rounds).to_owned(),
                Some(_) => format!("{} {CAPPED}", why(rounds)),
            };
            compare(&what, &out[at..], &want, &why, |_| 2.0 * weight)?;
        }
    }
    Ok(())
}

/// Why attention may be off by so much.
fn why(rounds: bool) -> &'static str {
    match rounds {
        false => ATTENDED,
        true => ROUNDED,
    }
}

const ATTENDED: &str = "A logit of size A = scale sum |q k| is off by A (d + 4) 2^-24. A weight is off by twice that, by exp's error of 3 + 2 |x| ulp at \
     x of at most 2 A, once in its tile and twice in merges, and by the sum over n tokens. The output is off by twice the weights' \
     relative error times the largest value, which is 1.";

const ROUNDED: &str = "As without matrix units: a logit of size A = scale sum |q k| is off by A (d + 4) 2^-24, a weight by twice that, by exp's error of \
     3 + 2 |x| ulp and by the sum over n tokens, the output by twice that. Besides, queries in f16 are off by 2^-11, and a weight by twice \
     what its logit is; so is the weight in f16, or by 2^-32 of the largest, which is 1. Matrix units do not round sums to nearest: four \
     times what floats take.";

const MERGED: &str =
    "exp of at most 80 is within 163 ulp, and 210 terms are summed; |o| <= 1 and l >= 0.1.";

async fn merge(gpu: &Gpu, head_dim: u32) -> Result<Verdict> {
    let shape = Shape::new(1, 2, head_dim, false);
    let dimensions = head_dim as usize;
    let (rows, splits, segments) = (2usize, 70usize, 3u32);
    let mut random = Random::new(1);
    let parts = splits * segments as usize;
    let states = rows * 2 * parts;
    let mut m: Vec<f32> = (0..states).map(|_| random.float() * 40.0).collect();
    let mut l: Vec<f32> = (0..states).map(|_| random.float().abs() + 0.1).collect();
    let mut o = random.floats(states * dimensions);
    for i in (0..states).filter(|i| i % 3 == 0) {
        (m[i], l[i]) = (-1.0e30, 0.0);
        o[i * dimensions..(i + 1) * dimensions].fill(0.0);
    }
    let step = StepHeader { splits: splits as u32, ..StepHeader::default() };
    let ml: Vec<u32> = m.iter().zip(&l).flat_map(|(m, l)| [m.to_bits(), l.to_bits()]).collect();
    let o_bits = bits(&o);
    let data = kernels::Merge {
        step: Data::In(step.words()),
        merge: Data::uniform(MergeParams { segments, count: segments }),
        partial_o: Data::In(&o_bits),
        partial_ml: Data::In(&ml),
        out: Data::Out(rows * 2 * dimensions),
    };
    let grid = (2, rows as u32, kernels::merge_parts(&shape));
    let out = run(gpu, &kernels::merge(gpu.tier, &shape), data, grid).await?.out;
    for head in 0..rows * 2 {
        let states = head * parts..(head + 1) * parts;
        let largest = states.clone().map(|i| f64::from(m[i])).fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 =
            states.clone().map(|i| f64::from(l[i]) * (f64::from(m[i]) - largest).exp()).sum();
        let want: Vec<f64> = (0..dimensions)
            .map(|d| {
                let weighed = states
                    .clone()
                    .map(|i| f64::from(o[i * dimensions + d]) * (f64::from(m[i]) - largest).exp());
                weighed.sum::<f64>() / sum
            })
            .collect();
        let verdict =
            compare(&format!("head {head}"), &out[head * dimensions..], &want, MERGED, |_| {
                20.0 * (163.0 + 210.0) * 2f64.powi(-23)
            });
        if verdict.is_err() {
            return Ok(verdict);
        }
    }
    Ok(Ok(()))
}
