//! Cases of `latent_append`, `latent_gather` and `latent_place`.

use super::cache::{Cache, Family, latent_shapes, shape_label};
use super::rig::{
    Data, HALF, NORM, POISON, Random, bits, compare, compare_halves, kept, run, same_words,
    stored_row, untouched,
};
use super::{Case, Verdict};
use crate::Result;
use crate::attention::Latent;
use crate::attention::Shape;
use crate::gpu::Gpu;
use crate::kernels::{self, SegmentParams};
use crate::reference::model::{rms_norm, rope};
use half::f16;

pub(super) fn cases(cases: &mut Vec<Case>) {
    for (shape, q_rank) in latent_shapes().into_iter().zip([768, 48]) {
        let latent = latent(&shape, q_rank);
        for segments in [1, 2] {
            let label = format!("{} segments {segments}", shape_label(&shape));
            cases.push(Case::new("latent_append", label, true, move |gpu| {
                Box::pin(latent_append(gpu, shape, latent, segments))
            }));
        }
        for segments in [1, 3] {
            let label = format!("{} segments {segments}", shape_label(&shape));
            cases.push(Case::new("latent_gather", label, false, move |gpu| {
                Box::pin(latent_gather(gpu, shape, segments))
            }));
        }
        cases.push(Case::new("latent_place", shape_label(&shape), false, move |gpu| {
            Box::pin(latent_place(gpu, shape.block, latent))
        }));
    }
}

/// The latent attention whose absorbed shape this is.
fn latent(shape: &Shape, q_rank: u32) -> Latent {
    let rope = shape.head_dim - shape.value_dim();
    Latent {
        heads: shape.group,
        q_rank,
        kv_rank: shape.value_dim(),
        nope: shape.scaled_by - rope,
        rope,
        value: shape.scaled_by,
        epsilon: 1e-5,
    }
}

/// Why what is rotated may be off by so much.
const TURNED: &str = "cos, sin, two products and a sum each round to f32.";

/// Rotates in neighbouring pairs, and how far what results may be off.
fn turn(values: &[f32], angles: &[f64]) -> (Vec<f64>, f64) {
    let mut turned: Vec<f64> = values.iter().map(|&v| f64::from(v)).collect();
    rope(&mut turned, angles, true);
    let size = values.iter().fold(0.0, |size: f32, v| size.max(v.abs()));
    (turned, 3.0 * f64::from(size) * 2f64.powi(-22))
}

async fn latent_append(gpu: &Gpu, shape: Shape, latent: Latent, segments: u32) -> Result<Verdict> {
    let lengths = [shape.block + 1, 3 * shape.block + 8, 1];
    let counts = [3, shape.block + 6, 1];
    let cache = Cache::new(shape, &lengths, segments, Family::Random);
    let step = cache.step(&counts, None, &[], 16);
    let rows = cache.rows(&counts);
    let (latent_at, down_stride) = kernels::down_row(&latent);
    let (latent_at, down_stride) = (latent_at as usize, down_stride as usize);
    let (heads, query_dim) = (latent.heads as usize, latent.query_dim() as usize);
    let (nope, kv_rank) = (latent.nope as usize, latent.kv_rank as usize);
    let (d, width) = (shape.head_dim as usize, shape.row_width() as usize);

    let mut random = Random::new(u64::from(latent.q_rank));
    let queries = random.floats(rows.len() * heads * query_dim);
    let mut down = random.floats(rows.len() * down_stride);
    // A row whose norm epsilon decides, and a shared key that f16 cannot hold.
    down[down_stride..2 * down_stride].iter_mut().for_each(|v| *v *= 1e-3);
    down[latent_at + kv_rank] = 1e9;
    let weight = random.floats(kv_rank);
    let (query_bits, down_bits, weight_bits) = (bits(&queries), bits(&down), bits(&weight));
    let mut turned = query_bits.clone();
    let mut latents = vec![POISON; rows.len() * width];
    let mut caches = Vec::new();
    for segment in 0..segments {
        let params = cache.segment(segment);
        let before = vec![POISON; cache.segment_words(segment).len()];
        let data = kernels::LatentAppend {
            step: Data::In(&step.words),
            segment: Data::uniform(params),
            queries: Data::InOut(&turned),
            down: Data::In(&down_bits),
            weight: Data::In(&weight_bits),
            latents: Data::InOut(&latents),
            kv: Data::InOut(&before),
        };
        let grid = (latent.heads + 1, step.rows, 1);
        let spec = kernels::latent_append(&shape, &latent);
        let results = run(gpu, &spec, data, grid).await?;
        caches.push(results.kv);
        (turned, latents) = (results.queries, results.latents);
    }

    let mut expected: Vec<_> = caches.iter().map(|words| vec![None; words.len()]).collect();
    for (r, &(sequence, position)) in rows.iter().enumerate() {
        let angles = cache.angles(position);
        let heads_at = r * width;
        for head in 0..heads {
            let at = (r * heads + head) * query_dim;
            let to = heads_at + head * d;
            let (want, tolerance) = turn(&queries[at + nope..at + query_dim], &angles);
            let what = format!("row {r} head {head}");
            let verdict = compare(&what, &turned[at + nope..], &want, TURNED, |_| tolerance)
                .and(compare(&what, &latents[to + kv_rank..], &want, TURNED, |_| tolerance))
                .and(untouched(&format!("{what} latent"), &latents[to..to + kv_rank]));
            if verdict.is_err() {
                return Ok(verdict);
            }
            let rest = &query_bits[at..at + nope];
            let verdict = same_words(&format!("{what}, not rotated,"), &turned[at..], rest);
            if verdict.is_err() {
                return Ok(verdict);
            }
        }
        let made = &down[r * down_stride + latent_at..];
        let left = &latents[heads_at + heads * d..][..d];
        let normed = rms_norm(&made[..kv_rank], &weight, latent.epsilon);
        let relative = (kv_rank as f64 / 2.0 + 12.0) * 2f64.powi(-24);
        let (key, tolerance) = turn(&made[kv_rank..d], &angles);
        let verdict = compare(&format!("row {r} latent"), left, &normed, NORM, |i| {
            normed[i].abs() * relative + 1e-30
        })
        .and(compare(
            &format!("row {r} shared key"),
            &left[kv_rank..],
            &key,
            TURNED,
            |_| tolerance,
        ));
        if verdict.is_err() {
            return Ok(verdict);
        }
        let (segment, to) = cache.place(sequence, position, 0);
        let latent = normed.iter().map(|&v| (v, v.abs() * relative + 1e-30));
        let twins = latent.chain(key.iter().map(|&v| (v, tolerance)));
        let row: Vec<_> =
            left.iter().zip(twins).map(|(&left, (v, within))| kept(left, v, within)).collect();
        for (place, pair) in expected[segment][to..].iter_mut().zip(row.chunks_exact(2)) {
            *place = Some([pair[0], pair[1]]);
        }
    }
    for (segment, (got, want)) in caches.iter().zip(&expected).enumerate() {
        let verdict = compare_halves(&format!("segment {segment}"), got, want, HALF);
        if verdict.is_err() {
            return Ok(verdict);
        }
    }
    Ok(Ok(()))
}

async fn latent_gather(gpu: &Gpu, shape: Shape, segments: u32) -> Result<Verdict> {
    let block = shape.block;
    let length = 3 * block + 8;
    // The step's first sequence counts, whatever follows.
    let cache = Cache::new(shape, &[length, 6 * block], segments, Family::Random);
    let step = cache.step(&[5, 2], None, &[], 16);
    let (first, blocks) = (1, 4);
    let slab = SegmentParams::in_order(first, blocks, 0, 1);
    let tokens = blocks * block;
    let (d, kv_rank) = (shape.head_dim as usize, shape.value_dim() as usize);
    for segment in 0..segments {
        let params = cache.segment(segment);
        let kv = cache.segment_words(segment);
        let data = kernels::LatentGather {
            step: Data::In(&step.words),
            segment: Data::uniform(params),
            slab: Data::uniform(slab),
            kv: Data::In(&kv),
            latents: Data::Out(tokens as usize * kv_rank),
            shared_keys: Data::Out(tokens as usize * (d - kv_rank)),
        };
        let spec = kernels::latent_gather(&shape);
        let results = run(gpu, &spec, data, (tokens, 1, 1)).await?;
        let (keys, latents) = (results.shared_keys, results.latents);
        for token in 0..tokens {
            let position = first * block + token;
            let latent = &latents[token as usize * kv_rank..][..kv_rank];
            let key = &keys[token as usize * (d - kv_rank)..][..d - kv_rank];
            let what = format!("segment {segment} token {token}");
            let want: Vec<f64> = if position >= length {
                vec![0.0; d]
            } else if cache.place(0, position, 0).0 == segment as usize {
                cache.key(0, 0, position).iter().map(|&v| f64::from(v)).collect()
            } else {
                let verdict = untouched(&what, latent).and(untouched(&what, key));
                if verdict.is_err() {
                    return Ok(verdict);
                }
                continue;
            };
            const WHY: &str = "Exact, but that WGSL lets subnormals of f16 become zero.";
            let tolerance =
                |v: f64| if v.abs() < f16::MIN_POSITIVE.to_f64() { v.abs() } else { 0.0 };
            let verdict = compare(&what, latent, &want[..kv_rank], WHY, |i| tolerance(want[i]))
                .and(compare(&what, key, &want[kv_rank..], WHY, |i| tolerance(want[kv_rank + i])));
            if verdict.is_err() {
                return Ok(verdict);
            }
        }
    }
    Ok(Ok(()))
}

async fn latent_place(gpu: &Gpu, block: u32, latent: Latent) -> Result<Verdict> {
    let shape = latent.prefill_shape(block);
    let tokens = block as usize + 3;
    let (heads, d) = (latent.heads as usize, shape.head_dim as usize);
    let (nope, rope) = (latent.nope as usize, latent.rope as usize);
    let made_stride = heads * (nope + d);
    let mut random = Random::new(u64::from(latent.q_rank));
    let mut made = random.floats(tokens * made_stride);
    // A number that f16 cannot hold is stored as the largest that it can.
    made[0] = -1e9;
    made[heads * nope] = 70000.0;
    let shared = random.floats(tokens * rope);
    let (made_bits, shared_bits) = (bits(&made), bits(&shared));
    let words = 2 * shape.block_bytes() as usize / 4;
    let data = kernels::LatentPlace {
        made: Data::In(&made_bits),
        shared_keys: Data::In(&shared_bits),
        kv: Data::Out(words),
    };
    let spec = kernels::latent_place(&shape, &latent);
    let got = run(gpu, &spec, data, (latent.heads, tokens as u32, 1)).await?.kv;
    let mut expected = vec![None; words];
    for token in 0..tokens {
        let (slot, in_block) = (token / block as usize, token % block as usize);
        let made = &made[token * made_stride..][..made_stride];
        for head in 0..heads {
            let mut key = made[head * nope..][..nope].to_vec();
            key.extend(&shared[token * rope..][..rope]);
            let value = &made[heads * nope + head * d..][..d];
            for (which, row) in [&key[..], value].into_iter().enumerate() {
                let to = ((slot * heads + head) * 2 + which) * block as usize + in_block;
                for (place, want) in expected[to * d / 2..].iter_mut().zip(stored_row(row)) {
                    *place = want;
                }
            }
        }
    }
    Ok(compare_halves("the cache's", &got, &expected, HALF))
}
