//! Cases of `shaders/index`.

use super::cache::{Cache, Family, index_shapes, shape_label};
use super::rig::{
    Data, Elements, Format, POISON, Random, bits, compare, is_run, run, same_words, untouched,
};
use super::{Case, Verdict};
use crate::Result;
use crate::attention::ChannelStats;
use crate::attention::{BlockScorer, Shape};
use crate::contract::{StepHeader, Words};
use crate::gpu::Gpu;
use crate::kernels::{self, FreezeParams};
use crate::reference::index::{Range, pack_codes, unpack_codes};
use crate::reference::summary::{self, SummaryTwin};
use half::f16;

pub(super) fn cases(cases: &mut Vec<Case>) {
    for shape in index_shapes() {
        let label = shape_label(&shape);
        cases.push(Case::new("channel_stats", label.clone(), true, move |gpu| {
            Box::pin(channel_stats(gpu, shape))
        }));
        for family in ["random", "ties", "nan"] {
            cases.push(Case::new(
                "choose_channels",
                format!("{label} {family}"),
                true,
                move |gpu| Box::pin(choose_channels(gpu, shape, family)),
            ));
        }
        for segments in [1, 3] {
            for twin in BlockScorer::all().filter_map(SummaryTwin::of) {
                for family in [Family::Random, Family::Equal, Family::Largest, Family::NotFinite] {
                    // Segments change which blocks are here, not what is computed.
                    if segments > 1 && family != Family::Random {
                        continue;
                    }
                    cases.push(Case::new(
                        "block_summary",
                        format!("{label} {} segments {segments} {family:?}", twin.scorer),
                        false,
                        move |gpu| Box::pin(block_summary(gpu, shape, segments, twin, family)),
                    ));
                }
            }
            // Keys that are all equal have no steps.
            for family in [Family::Random, Family::Equal] {
                cases.push(Case::new(
                    "token_codes",
                    format!("{label} segments {segments} {family:?}"),
                    true,
                    move |gpu| Box::pin(token_codes(gpu, shape, segments, family)),
                ));
            }
        }
    }
}

// Stats of every KV head as the shader lays them out.
fn stats_words(heads: &[ChannelStats]) -> Vec<u32> {
    heads
        .iter()
        .flat_map(|s| {
            s.queries.iter().chain([&s.keys]).flat_map(|row| bits(row)).collect::<Vec<_>>()
        })
        .collect()
}

async fn channel_stats(gpu: &Gpu, shape: Shape) -> Result<Verdict> {
    // The first span begins its sequence; the second continues one and passes the last position that counts; the third
    // lies beyond it.
    let lengths = [70, 1030, 1200];
    let counts = [70, 20, 5];
    let cache = Cache::new(shape, &lengths, 1, Family::Equal);
    let step = cache.step(&counts, None, &[], 16);
    let rows = cache.rows(&counts);
    let mut random = Random::new(8);
    let qkv = random.floats(rows.len() * shape.row_width() as usize);
    let d = shape.head_dim as usize;
    let fresh = ChannelStats::new(shape.group as usize, d);
    let mut earlier = fresh.clone();
    earlier.fold(&vec![&vec![0.9f32; d][..]; shape.group as usize], &vec![0.25; d]);
    let heads = shape.kv_heads as usize;
    // The first slot holds rubbish that must not survive.
    let mut before = vec![POISON; heads * (shape.group as usize + 1) * d];
    before.extend(stats_words(&vec![earlier.clone(); heads]));
    before.extend(stats_words(&vec![earlier.clone(); heads]));
    let qkv_bits = bits(&qkv);
    let data = kernels::ChannelStats {
        step: Data::In(&step.words),
        qkv: Data::In(&qkv_bits),
        stats: Data::InOut(&before),
    };
    let spec = kernels::channel_stats(&shape, Shape::STATS_TOKENS);
    let grid = (shape.kv_heads, step.spans, shape.group + 1);
    let got = run(gpu, &spec, data, grid).await?.stats;

    let mut want = Vec::new();
    for sequence in 0..3 {
        for head in 0..heads {
            let mut stats = if sequence == 0 { fresh.clone() } else { earlier.clone() };
            for (r, &(_, position)) in rows.iter().enumerate().filter(|(_, row)| row.0 == sequence)
            {
                if position >= Shape::STATS_TOKENS {
                    continue;
                }
                let row = &qkv[r * shape.row_width() as usize..];
                let queries: Vec<_> = (0..shape.group as usize)
                    .map(|h| &row[(head * shape.group as usize + h) * d..][..d])
                    .collect();
                let key: Vec<f32> = row[(shape.q_heads() as usize + head) * d..][..d]
                    .iter()
                    .map(|&k| f16::from_f32(k).to_f32())
                    .collect();
                stats.fold(&queries, &key);
            }
            want.extend(stats_words(&[stats]));
        }
    }
    const WHY: &str = "Extremes are exact, but for the rounding of a key to f16, which may go to either neighbour.";
    let want: Vec<f64> = want.iter().map(|&word| f32::from_bits(word).into()).collect();
    Ok(compare("stats", &got, &want, WHY, |i| want[i].abs() * 2f64.powi(-10)))
}

async fn choose_channels(gpu: &Gpu, shape: Shape, family: &str) -> Result<Verdict> {
    let mut random = Random::new(12);
    let d = shape.head_dim as usize;
    let heads: Vec<ChannelStats> = (0..2 * shape.kv_heads)
        .map(|_| {
            let mut stats = ChannelStats::new(shape.group as usize, d);
            for _ in 0..3 {
                let queries: Vec<Vec<f32>> = (0..shape.group).map(|_| random.floats(d)).collect();
                let queries: Vec<&[f32]> = queries.iter().map(Vec::as_slice).collect();
                stats.fold(&queries, &random.floats(d));
            }
            match family {
                "ties" => {
                    stats.queries.iter_mut().for_each(|q| q.fill(1.0));
                    stats.keys.fill(1.0);
                }
                "nan" => stats.queries[0][2] = f32::NAN,
                _ => {}
            }
            stats
        })
        .collect();
    // The second slot is frozen; the first must be left alone.
    let words = stats_words(&heads);
    let per_slot = shape.channels_len() as usize;
    let step = StepHeader::default();
    let data = kernels::ChooseChannels {
        step: Data::In(step.words()),
        freeze: Data::uniform(FreezeParams { sequence: 1 }),
        stats: Data::In(&words),
        channels: Data::Out(2 * per_slot),
    };
    let grid = (shape.kv_heads, 1, 1);
    let got = run(gpu, &kernels::choose_channels(&shape), data, grid).await?.channels;
    let verdict = untouched("another sequence's channels", &got[..per_slot]);
    if verdict.is_err() {
        return Ok(verdict);
    }
    let count = shape.index.channels as usize;
    for head in 0..shape.kv_heads as usize {
        let stats = &heads[shape.kv_heads as usize + head];
        let want = stats.choose(shape.index.channels, shape.rope_interleaved);
        let got = &got[per_slot + head * count..][..count];
        let verdict = same_words(&format!("head {head}: channels"), got, &want);
        if verdict.is_ok() {
            continue;
        }
        let score =
            |ids: &[u32]| -> f64 { ids.iter().map(|&i| f64::from(stats.score(i as usize))).sum() };
        let is_a_set = got.iter().all(|&id| id < shape.head_dim)
            && (1..count).all(|i| !got[..i].contains(&got[i]));
        // Scores that differ by rounding alone may swap.
        if family != "random" || !is_a_set || (score(got) - score(&want)).abs() >= 1e-5 {
            return Ok(verdict);
        }
    }
    Ok(Ok(()))
}

/// Random channels: sequence and KV head.
pub(super) fn random_channels(
    shape: &Shape,
    sequences: usize,
    random: &mut Random,
) -> Vec<Vec<u32>> {
    (0..sequences * shape.kv_heads as usize)
        .map(|_| {
            let mut pool: Vec<u32> = (0..shape.head_dim).collect();
            while pool.len() > shape.index.channels as usize {
                pool.remove(random.below(pool.len() as u32) as usize);
            }
            pool
        })
        .collect()
}

async fn token_codes(gpu: &Gpu, shape: Shape, segments: u32, family: Family) -> Result<Verdict> {
    let lengths = [3 * shape.block + 8, shape.block, 2 * shape.block + 2];
    let cache = Cache::new(shape, &lengths, segments, family);
    // Blocks 0 and 2 of the first sequence (its last one is open, but full of defined keys only in part), all of the
    // second, none of the third.
    let sealing =
        vec![vec![cache.tables[0][0], cache.tables[0][2]], vec![cache.tables[1][0]], vec![]];
    let step = cache.step(&[1, 1, 1], None, &sealing, 16);
    let mut random = Random::new(77);
    let channels = random_channels(&shape, 3, &mut random);
    let words = channels.concat();
    let kv_heads = shape.kv_heads as usize;
    let row_words = shape.index.words() as usize;
    let head_words = shape.index.block_words(shape.block) as usize;
    let block_words = shape.block_code_bytes() as usize / 4;
    for segment in 0..segments {
        let params = cache.segment(segment);
        let kv = cache.segment_words(segment);
        let data = kernels::TokenCodes {
            step: Data::In(&step.words),
            segment: Data::uniform(params),
            kv: Data::In(&kv),
            channels: Data::In(&words),
            codes: Data::Out(block_words * cache.blocks_a_segment as usize),
            index_segment: Data::uniform(params),
        };
        let grid = (shape.kv_heads, step.sealing, 1);
        let got = run(gpu, &kernels::token_codes(&shape), data, grid).await?.codes;
        for slot in 0..cache.blocks_a_segment {
            let physical = segment * cache.blocks_a_segment + slot;
            let sequence = sealing.iter().position(|blocks| blocks.contains(&physical));
            let block = &got[slot as usize * block_words..][..block_words];
            let Some(sequence) = sequence else {
                let verdict = untouched(&format!("block {physical}, not to be sealed,"), block);
                if verdict.is_err() {
                    return Ok(verdict);
                }
                continue;
            };
            let logical = cache.tables[sequence]
                .iter()
                .position(|&b| b == physical)
                .expect("a block to seal") as u32;
            for head in 0..kv_heads {
                let index = &block[head * head_words..][..head_words];
                let ids = &channels[sequence * kv_heads + head];
                let key = |token: u32, id: u32| {
                    cache.key(sequence, head, logical * shape.block + token)[id as usize]
                };
                let stored: Vec<Range> = index[..ids.len()]
                    .iter()
                    .map(|&w| {
                        let [zero, step] = [w as u16, (w >> 16) as u16];
                        let f16 = |bits| f16::from_bits(bits).to_f32();
                        Range { zero: f16(zero), scale: f16(step) }
                    })
                    .collect();
                let verdict = check_index(
                    &format!("block {physical} head {head}"),
                    index,
                    shape,
                    |channel, token| key(token, ids[channel]),
                );
                if verdict.is_err() {
                    return Ok(verdict);
                }
                // By the ranges that are stored, of which a script has none.
                for token in (0..shape.block).filter(|_| is_run()) {
                    let at = ids.len() + token as usize * row_words;
                    let codes = unpack_codes(&index[at..at + row_words], shape.index);
                    for ((&id, range), code) in ids.iter().zip(&stored).zip(codes) {
                        let want = range.exact_code(key(token, id), shape.index);
                        if (f64::from(code) - want).abs() > 0.5 + 1e-4 {
                            return Ok(Err(format!(
                                "block {physical} head {head} token {token} dimension {id}: code {code}, not {want}"
                            )));
                        }
                    }
                }
            }
        }
    }
    Ok(Ok(()))
}

// The index of a head-block: ranges, and the codes that follow from them, where rounding leaves no choice.
fn check_index(
    part: &str,
    index: &[u32],
    shape: Shape,
    key: impl Fn(usize, u32) -> f32,
) -> Verdict {
    let (format, channels) = (shape.index, shape.index.channels as usize);
    let range = |channel| Range::of((0..shape.block).map(|token| key(channel, token)), format);
    let ranges: Vec<Range> = (0..channels).map(range).collect();
    let want: Vec<f64> =
        ranges.iter().flat_map(|range| [range.zero.into(), range.scale.into()]).collect();
    let tolerance: Vec<f64> = want.iter().map(|want| want.abs() * 2f64.powi(-10) + 1e-7).collect();
    const WHY: &str =
        "A division is within 2.5 ulp, which may move what rounds to f16 to its neighbour.";
    let (ranges_part, tolerance) = (format!("{part} ranges"), &*tolerance);
    Elements {
        part: &ranges_part,
        format: Format::F16,
        words: index,
        want: &want,
        tolerance,
        why: WHY,
    }
    .compare()?;
    // Where a range is a neighbour of this one, codes move by so much.
    let is_doubtful = |channel: usize, exact: f64| {
        let Range { zero, scale } = ranges[channel];
        let steps = f64::from(zero.abs()) / f64::from(scale) + f64::from(format.largest());
        // Not so where there is no step, or no number.
        let is_sure = (exact.fract() - 0.5).abs() > 1e-4 + steps * 2f64.powi(-10);
        !is_sure
    };
    let (mut want, mut tolerance) = (Vec::new(), Vec::new());
    for token in 0..shape.block {
        let exact: Vec<f64> = (0..channels)
            .map(|channel| ranges[channel].exact_code(key(channel, token), format))
            .collect();
        let codes: Vec<u8> = exact.iter().map(|exact| exact.round() as u8).collect();
        let sure = |(channel, &exact): (usize, &f64)| match is_doubtful(channel, exact) {
            true => 0,
            false => format.largest() as u8,
        };
        let sure: Vec<u8> = exact.iter().enumerate().map(sure).collect();
        let zeros = pack_codes(&vec![0; channels], format);
        let words =
            pack_codes(&codes, format).into_iter().zip(pack_codes(&sure, format)).zip(zeros);
        for ((word, sure), zero) in words {
            for shift in (0..32).step_by(format.bits as usize) {
                let of = |word: u32| word >> shift & format.largest();
                want.push(of(word).into());
                tolerance.push(if of(sure ^ zero) == 0 { f64::INFINITY } else { 0.0 });
            }
        }
    }
    const CODED: &str = "What is half-way between codes, or may be, is not compared.";
    let (part, words) = (&*format!("{part} codes"), &index[channels..]);
    let format = Format::Bits(format.bits);
    Elements { part, format, words, want: &want, tolerance: &tolerance, why: CODED }.compare()
}

async fn block_summary(
    gpu: &Gpu,
    shape: Shape,
    segments: u32,
    twin: &SummaryTwin,
    family: Family,
) -> Result<Verdict> {
    let lengths = [3 * shape.block + 8, shape.block];
    let cache = Cache::new(shape, &lengths, segments, family);
    let sealing = [cache.tables[0][..3].to_vec(), cache.tables[1].clone()];
    let step = cache.step(&[1, 1], None, &sealing, 16);
    let summary = twin.scorer.summary().expect("a summary that has a twin");
    let spec = kernels::block_summary(&shape, summary);
    let block_words = summary.block_bytes(&shape) as usize / 4;
    let (heads, d) = (shape.kv_heads as usize, shape.head_dim as usize);
    for segment in 0..segments {
        let params = cache.segment(segment);
        let kv = cache.segment_words(segment);
        let data = kernels::BlockSummary {
            step: Data::In(&step.words),
            segment: Data::uniform(params),
            kv: Data::In(&kv),
            summary: Data::Out(block_words * cache.blocks_a_segment as usize),
            index_segment: Data::uniform(params),
        };
        let got = run(gpu, &spec, data, (shape.kv_heads, step.sealing, 1)).await?.summary;
        for (slot, got) in got.chunks(block_words).enumerate() {
            let physical = segment * cache.blocks_a_segment + slot as u32;
            let place = sealing.iter().enumerate().find_map(|(sequence, blocks)| {
                Some((sequence, blocks.iter().position(|&b| b == physical)? as u32))
            });
            let Some((sequence, logical)) = place else {
                let verdict = untouched(&format!("block {physical}, not to be sealed,"), got);
                if verdict.is_err() {
                    return Ok(verdict);
                }
                continue;
            };
            // What is not finite must not be noticed elsewhere; where it is, anything may be.
            let elements = heads * summary.rows as usize * d;
            let (mut want, mut tolerance) = (vec![0.0; elements], vec![f64::INFINITY; elements]);
            for (head, dimension) in (0..heads).flat_map(|head| (0..d).map(move |d| (head, d))) {
                let keys =
                    summary::dimension(&cache.block_keys(sequence, head, logical), dimension);
                if keys.iter().any(|key| !key.is_finite()) {
                    continue;
                }
                for (row, value) in (twin.summarise)(&keys).into_iter().enumerate() {
                    let at = (head * summary.rows as usize + row) * d + dimension;
                    // What f16 has is stored as it is; else WGSL allows either neighbour.
                    let rounds = f64::from(f16::from_f64(value)) != value;
                    let rounding =
                        if rounds { value.abs() * 2f64.powi(-10) + 2f64.powi(-24) } else { 0.0 };
                    (want[at], tolerance[at]) = (value, (twin.doubt)(&keys) + rounding);
                }
            }
            const WHY: &str = "A summary rounds as its twin says, and once more to f16.";
            let (part, format) = (&*format!("block {physical}"), Format::F16);
            let (want, tolerance) = (&*want, &*tolerance);
            let verdict =
                Elements { part, format, words: got, want, tolerance, why: WHY }.compare();
            if verdict.is_err() {
                return Ok(verdict);
            }
        }
    }
    Ok(Ok(()))
}
