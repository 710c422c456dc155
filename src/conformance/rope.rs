//! Cases of `rope_append`.

use super::attend::random_qkv;
use super::cache::{Cache, Family, shape_label, shapes, sizes};
use super::rig::{Data, HALF, POISON, Random, bits, compare, compare_halves, kept, run};
use super::{Case, Verdict};
use crate::Result;
use crate::attention::Shape;
use crate::gpu::Gpu;
use crate::kernels;
use crate::reference::model::{rms_norm, rope};

pub(super) fn cases(cases: &mut Vec<Case>) {
    let mut add = |shape: Shape, norm: Option<f32>, is_biased: bool| {
        for segments in [1, 2] {
            let normed = if norm.is_some() { " normed" } else { "" };
            let biased = if is_biased { " biased" } else { "" };
            let label = format!("{}{biased}{normed} segments {segments}", shape_label(&shape));
            cases.push(Case::new("rope_append", label, true, move |gpu| {
                Box::pin(rope_append(gpu, shape, norm, is_biased, segments))
            }));
        }
    };
    for shape in shapes().into_iter().chain(sizes()) {
        add(shape, None, false);
        // Heads shorter than a workgroup, as long as several, and of unequal shares of lanes; pairs of both kinds.
        if [32, 80, 96, 256].contains(&shape.head_dim) && shape.group > 1 {
            add(shape, Some(1e-6), false);
            add(shape, None, true);
        }
        if shape.head_dim == 80 && shape.group > 1 {
            add(shape, Some(1e-6), true);
        }
    }
}

async fn rope_append(
    gpu: &Gpu,
    shape: Shape,
    norm: Option<f32>,
    is_biased: bool,
    segments: u32,
) -> Result<Verdict> {
    let lengths = [shape.block + 1, 3 * shape.block + 8, 1];
    let counts = [3, shape.block + 6, 1];
    let cache = Cache::new(shape, &lengths, segments, Family::Random);
    let step = cache.step(&counts, None, &[], 16);
    let rows = cache.rows(&counts);
    let width = shape.row_width() as usize;
    let mut qkv = random_qkv(&shape, rows.len());
    // A number that f16 cannot hold is stored as the largest that it can.
    let value_at = ((shape.q_heads() + shape.kv_heads) * shape.head_dim) as usize;
    qkv[value_at] = 1e9;
    qkv[value_at + 1] = -70000.0;
    if norm.is_some() {
        // A row whose norms epsilon decides.
        qkv[width..width + value_at].iter_mut().for_each(|v| *v *= 1e-3);
    }
    let d = shape.head_dim as usize;
    let mut random = Random::new(17);
    let weights = [random.floats(d), random.floats(d)];
    let weight_bits = [bits(&weights[0]), bits(&weights[1])];
    let bias = random.floats(width);
    let bias_bits = bits(&bias);
    let mut turned = bits(&qkv);
    if is_biased {
        // One sum, rounded as the shader rounds it.
        qkv.iter_mut().zip(bias.iter().cycle()).for_each(|(v, bias)| *v += bias);
    }
    let mut caches = Vec::new();
    for segment in 0..segments {
        let params = cache.segment(segment);
        let before = vec![POISON; cache.segment_words(segment).len()];
        let weight = |i: usize| norm.is_some().then_some(Data::In(&weight_bits[i]));
        let data = kernels::RopeAppend {
            step: Data::In(&step.words),
            segment: Data::uniform(params),
            qkv: Data::InOut(&turned),
            kv: Data::InOut(&before),
            q_weight: weight(0),
            k_weight: weight(1),
            bias: is_biased.then_some(Data::In(&bias_bits)),
        };
        let grid = (shape.q_heads() + 2 * shape.kv_heads, step.rows, 1);
        let results = run(gpu, &kernels::rope_append(&shape, norm, is_biased), data, grid).await?;
        caches.push(results.kv);
        turned = results.qkv;
    }
    let mut expected: Vec<_> = caches.iter().map(|words| vec![None; words.len()]).collect();
    for (r, &(sequence, position)) in rows.iter().enumerate() {
        for head in 0..shape.q_heads() + 2 * shape.kv_heads {
            let at = r * width + head as usize * d;
            let kv_head = head.checked_sub(shape.q_heads());
            let is_value = kv_head.is_some_and(|head| head >= shape.kv_heads);
            let (mut want, relative) = match norm.filter(|_| !is_value) {
                None => (qkv[at..at + d].iter().map(|&v| f64::from(v)).collect(), 0.0),
                // As in the cases of rms_norm.
                Some(epsilon) => (
                    rms_norm(&qkv[at..at + d], &weights[usize::from(kv_head.is_some())], epsilon),
                    (d as f64 / 2.0 + 12.0) * 2f64.powi(-24),
                ),
            };
            let mut size = 0.0;
            if !is_value {
                size = want.iter().fold(0.0, |size: f64, v| size.max(v.abs()));
                rope(&mut want, &cache.angles(position), shape.rope_interleaved);
            }
            let off = |v: f64| 2.0 * relative * size + (v.abs() + 2.0 * size) * 2f64.powi(-22);
            const WHY: &str = "Each value of a pair is off by what its norm makes it; cos, sin, two products and a sum each round \
                to f32.";
            let verdict =
                compare(&format!("row {r} head {head}"), &turned[at..], &want, WHY, |i| {
                    off(want[i])
                });
            if verdict.is_err() {
                return Ok(verdict);
            }
            let Some(kv_head) = kv_head else { continue };
            let (kv_head, which) = (kv_head % shape.kv_heads, kv_head / shape.kv_heads);
            let (segment, to) = cache.place(sequence, position, kv_head * 2 + which);
            let row: Vec<_> =
                turned[at..].iter().zip(&want).map(|(&left, &v)| kept(left, v, off(v))).collect();
            for (place, pair) in expected[segment][to..].iter_mut().zip(row.chunks_exact(2)) {
                *place = Some([pair[0], pair[1]]);
            }
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
