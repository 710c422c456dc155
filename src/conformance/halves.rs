//! Cases of what prepares products on matrix units: `half_rows` and `largest_weight`.

use super::product::{Scales, largest, matrix, whole_units};
use super::rig::{Data, Elements, Format, Random, bits, compare, half_rounding, run, untouched};
use super::{Case, Verdict};
use crate::Result;
use crate::formats::TensorType;
use crate::formats::WeightFormat;
use crate::gpu::Gpu;
use crate::kernels::{self, LargestWeightParams, RowsParams};
use crate::reference::model::half_row;

pub(super) fn cases(cases: &mut Vec<Case>) {
    for width in [32, 576, 4096] {
        let label = format!("width {width}");
        cases.push(Case::new("half_rows", label, true, move |gpu| Box::pin(half_rows(gpu, width))));
    }
    for kind in TensorType::SUPPORTED {
        for units in [1, 18] {
            let units = whole_units(kind, units);
            let label = format!("{kind} 70x{}", units * 32);
            cases.push(Case::new("largest_weight", label, true, move |gpu| {
                Box::pin(largest_weight(gpu, kind, units))
            }));
        }
    }
}

async fn half_rows(gpu: &Gpu, width: usize) -> Result<Verdict> {
    let mut random = Random::new(width as u64);
    let stride = width + 32;
    let rows = 7;
    let mut x = random.floats(rows * stride);
    let mut row = |i: usize, change: &dyn Fn(&mut [f32])| change(&mut x[i * stride..][..width]);
    row(1, &|row| row.fill(0.0));
    // Beyond f16, at the end of f32 and where the shift ends.
    row(2, &|row| row.iter_mut().for_each(|v| *v *= 1e9));
    row(3, &|row| row.iter_mut().for_each(|v| *v *= f32::MAX));
    row(4, &|row| row.iter_mut().for_each(|v| *v *= 1e-33));
    // One far above the others.
    row(5, &|row| row[width - 1] = -3e6);
    row(6, &|row| (row[0], row[width / 2]) = (f32::NAN, f32::NEG_INFINITY));
    // The padding between rows does not count.
    for padding in x.chunks_exact_mut(stride) {
        padding[width..].fill(f32::MAX);
    }
    let x_bits = bits(&x);
    let data = kernels::HalfRows {
        rows: Data::uniform(RowsParams { width: width as u32, stride: stride as u32 }),
        x: Data::In(&x_bits),
        halves: Data::Out(x.len()),
    };
    let grid = (rows as u32, 1, 1);
    let got = run(gpu, &kernels::half_rows(gpu.tier), data, grid).await?.halves;
    for (i, (got, x)) in got.chunks_exact(stride).zip(x.chunks_exact(stride)).enumerate() {
        let verdict = check_half_row(got, &x[..width]);
        if verdict.is_err() {
            return Ok(verdict.map_err(|e| format!("row {i}: {e}")));
        }
    }
    Ok(Ok(()))
}

/// A row of what `half_rows` makes of this one.
pub(super) fn check_half_row(got: &[u32], x: &[f32]) -> Verdict {
    let (halves, shift) = half_row(x);
    const WHY: &str = "Either neighbour will do; a subnormal number may become zero, or be off by two steps of 2^-24, which is 2^-37 of \
        the largest of a row: SwiftShader makes 2^-23 of what is far below them. What is not finite stays so, in one way or the other.";
    let want: Vec<f64> = halves.iter().map(|half| half.to_f64()).collect();
    let tolerance: Vec<f64> = want.iter().map(|&value| half_rounding(value)).collect();
    let part = "halves";
    let of_row = Elements {
        part,
        format: Format::F16,
        words: got,
        want: &want,
        tolerance: &tolerance,
        why: WHY,
    };
    of_row.compare()?;
    // The other half of its word is nothing.
    let (at, part, why) = (x.len() / 2, "the shift", "It is exact.");
    let want = &[f64::from(shift), 0.0];
    let tolerance = &[0.0, f64::INFINITY];
    Elements { part, format: Format::F16, words: &got[at..], want, tolerance, why }.compare()?;
    untouched("after the shift", &got[at + 2..])
}

async fn largest_weight(gpu: &Gpu, kind: TensorType, units: usize) -> Result<Verdict> {
    let mut random = Random::new(units as u64);
    let (mut packed, mut weights) = matrix(&mut random, kind, Scales::Plausible, 70, units)?;
    if kind == TensorType::F32 {
        // Numbers that are not finite do not count.
        for (at, value) in [(3, f32::NAN), (17, f32::INFINITY), (29, -1e30)] {
            (packed.weights[at], weights[at]) = (value.to_bits(), value);
        }
    }
    // Three workgroups, so that lanes take several units where there are many.
    let sizes = LargestWeightParams { units: 70 * units as u32, lanes: 3 * 256 };
    let data = kernels::LargestWeight {
        largest: Data::InOut(&[0]),
        sizes: Data::uniform(sizes),
        weights: Data::In(&packed.weights),
        scales: Data::In(&packed.scales),
    };
    let spec = kernels::largest_weight(WeightFormat::of(kind)?);
    let got = run(gpu, &spec, data, (3, 1, 1)).await?.largest;
    let want = largest(&weights);
    const WHY: &str = "d * q + m rounds twice, or once when fused, and |m| is at most eleven times the largest weight.";
    let tolerance = f64::from(want) * 2f64.powi(-20);
    Ok(compare("largest", &got, &[want.into()], WHY, |_| tolerance))
}
