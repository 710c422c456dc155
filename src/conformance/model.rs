//! Cases of `rms_norm` and `arg_max`.

use super::halves::check_half_row;
use super::rig::{Data, NORM, POISON, Random, bits, compare, run, same_words};
use super::{Case, Verdict};
use crate::Result;
use crate::contract::{StepHeader, Words};
use crate::gpu::Gpu;
use crate::kernels::{self, Normed, RmsNormParams, RowsParams};
use crate::reference::model as twin;

pub(super) fn cases(cases: &mut Vec<Case>) {
    for width in [1, 33, 576, 2048] {
        let all = [Normed::Rows, Normed::Halved, Normed::Wanted, Normed::Added];
        for normed in all.into_iter().filter(|of| *of != Normed::Halved || width % 32 == 0) {
            let label = format!("width {width} {normed:?}");
            cases.push(Case::new("rms_norm", label, true, move |gpu| {
                Box::pin(rms_norm(gpu, width, normed))
            }));
        }
    }
    for family in [
        "random",
        "ties",
        "nan",
        "all nan",
        "infinite",
        "one",
        "negative zero",
        "parts",
        "end of a part",
        "whole parts",
        "more parts than lanes",
        "all infinite",
        "infinity",
    ] {
        cases.push(Case::new("arg_max", family, true, move |gpu| Box::pin(arg_max(gpu, family))));
    }
}

async fn rms_norm(gpu: &Gpu, width: usize, normed: Normed) -> Result<Verdict> {
    let mut random = Random::new(width as u64);
    let stride = width.next_multiple_of(32);
    let rows = 5;
    let mut x = random.floats(rows * stride);
    // One row of tiny values, where epsilon decides, and one of large ones.
    x[stride..2 * stride].iter_mut().for_each(|v| *v *= 1e-4);
    x[2 * stride..3 * stride].iter_mut().for_each(|v| *v *= 1e4);
    // One whose first number is far above the others.
    x[3 * stride] = 500.0;
    let weight = random.floats(width);
    let chosen: Vec<u32> = match normed {
        Normed::Wanted => vec![4, 1, 2],
        Normed::Rows | Normed::Halved | Normed::Added => (0..rows as u32).collect(),
    };
    // What is added to; else nothing that a kernel makes.
    let before = match normed {
        Normed::Added => random.floats(rows * stride),
        _ => vec![f32::from_bits(POISON); chosen.len() * stride],
    };
    let before_bits = bits(&before);
    let header = StepHeader { outputs_at: StepHeader::COUNT as u32, ..StepHeader::default() };
    let mut step = header.words().to_vec();
    step.extend(&chosen);
    let epsilon = 1e-5f32;
    let (x_stride, y_stride) = (stride as u32, stride as u32);
    let (x_bits, weight_bits) = (bits(&x), bits(&weight));
    let data = kernels::RmsNorm {
        step: Data::In(&step),
        rms_norm: Data::uniform(RmsNormParams { width: width as u32, x_stride, y_stride, epsilon }),
        x: Data::In(&x_bits),
        weight: Data::In(&weight_bits),
        y: Data::InOut(&before_bits),
        halves: (normed == Normed::Halved).then_some(Data::Out(rows * stride)),
    };
    let grid = (chosen.len() as u32, 1, 1);
    let out = run(gpu, &kernels::rms_norm(gpu.tier, normed), data, grid).await?;
    let y = out.y;
    for (i, &row) in chosen.iter().enumerate() {
        let norm = twin::rms_norm(&x[row as usize * stride..][..width], &weight, epsilon);
        let added = |j: usize| match normed {
            Normed::Added => f64::from(before[i * stride + j]),
            Normed::Rows | Normed::Halved | Normed::Wanted => 0.0,
        };
        let want: Vec<f64> = (0..width).map(|j| norm[j] + added(j)).collect();
        let relative = (width as f64 / 2.0 + 12.0) * 2f64.powi(-24);
        let why = format!("{NORM} A sum with what was there rounds.");
        let verdict = compare(&format!("row {row}"), &y[i * stride..], &want, &why, |j| {
            (norm[j].abs() + added(j).abs()) * relative + 1e-30
        });
        if verdict.is_err() {
            return Ok(verdict);
        }
        let padding = i * stride + width..(i + 1) * stride;
        let what = format!("row {row}: the padding");
        let verdict = same_words(&what, &y[padding.clone()], &before_bits[padding]);
        if verdict.is_err() {
            return Ok(verdict);
        }
        if let Some(halves) = &out.halves {
            // Of what the kernel itself made.
            let normed: Vec<f32> =
                y[i * stride..][..width].iter().map(|&word| f32::from_bits(word)).collect();
            let verdict = check_half_row(&halves[i * stride..][..stride], &normed);
            if verdict.is_err() {
                return Ok(verdict.map_err(|e| format!("row {row}: {e}")));
            }
        }
    }
    Ok(Ok(()))
}

async fn arg_max(gpu: &Gpu, family: &str) -> Result<Verdict> {
    let mut random = Random::new(3);
    let width = match family {
        "one" => 1,
        // Several parts, the last of them short.
        "parts" | "end of a part" => 3 * 4096 + 77,
        "whole parts" => 2 * 4096,
        "more parts than lanes" => 259 * 4096 + 1,
        _ => 1531,
    };
    let stride = width + 5;
    let rows = if width > 1 << 20 { 1 } else { 3 };
    let mut values = random.floats(rows * stride);
    for row in values.chunks_mut(stride) {
        // Numbers beyond the width, which would win.
        row[width..].fill(9.0);
        match family {
            "ties" => [1530, 700, 701, 257].into_iter().for_each(|i| row[i] = 2.0),
            "nan" => [0, 1, 1530].into_iter().for_each(|i| row[i] = f32::NAN),
            "all nan" => row.fill(f32::NAN),
            "infinite" => {
                row[..width].fill(f32::NEG_INFINITY);
                row[900] = f32::MIN;
                row[1200] = f32::NAN;
            }
            // Ties of different parts, and the last value of all.
            "parts" => [4096, 9000, width - 1].into_iter().for_each(|i| row[i] = 2.0),
            "end of a part" => row[8191] = 2.0,
            // Not the last: what is beyond the row is that one again.
            "whole parts" => row[width - 2] = 2.0,
            "more parts than lanes" => row[258 * 4096 + 7] = 2.0,
            "all infinite" => row[..width].fill(f32::NEG_INFINITY),
            "infinity" => row[700] = f32::INFINITY,
            "negative zero" => {
                row[..width].fill(-1.0);
                row[40] = -0.0;
                row[300] = 0.0;
            }
            _ => {}
        }
    }
    let value_bits = bits(&values);
    let params = RowsParams { width: width as u32, stride: stride as u32 };
    let count = kernels::arg_max_parts(width as u32);
    let data = kernels::ArgMaxPart {
        arg_max: Data::uniform(params),
        values: Data::In(&value_bits),
        parts: Data::Out(rows * 2 * count as usize),
    };
    let parts = run(gpu, &kernels::arg_max_part(), data, (count, rows as u32, 1)).await?.parts;
    let data = kernels::ArgMax {
        arg_max: Data::uniform(params),
        parts: Data::In(&parts),
        winners: Data::Out(rows),
    };
    let winners = run(gpu, &kernels::arg_max(), data, (rows as u32, 1, 1)).await?.winners;
    let want = |row: usize| {
        twin::arg_max(&values[row * stride..][..width]).map_or(u32::MAX, |at| at as u32)
    };
    Ok(same_words("winners", &winners, &(0..rows).map(want).collect::<Vec<_>>()))
}
