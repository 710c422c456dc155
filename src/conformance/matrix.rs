//! Cases of `matvec`, `matmul` and `embed`.

use super::rig::{Data, Random, bits, compare, run, untouched};
use super::{Case, Verdict};
use crate::Result;
use crate::gpu::Gpu;
use crate::kernels::{self, Batch, Output, Packed, WeightFormat};
use crate::model::gguf::TensorType;
use crate::reference::dequantize::dequantize;
use crate::reference::model::{matvec, swiglu};
use half::{bf16, f16};

#[derive(Clone, Copy, Debug)]
struct Product {
    kind: TensorType,
    output: Output,
    rows: usize,
    units: usize,
    tokens: usize,
    family: Family,
}

#[derive(Clone, Copy, Debug)]
enum Family {
    Random,
    /// One input of the second token is NaN, one of the third infinite: other tokens must not notice.
    NotFinite,
    Zero,
}

/// How a matrix's scales are drawn.
#[derive(Clone, Copy, Debug)]
enum Scales {
    Plausible,
    /// One in four is zero, subnormal or as large as every format takes. Only for kernels that add no weights up: large
    /// ones would hide what becomes of others.
    Extreme,
}

/// Zeros, the smallest and the largest subnormal, and the largest scale that Q5_0 can have on the GPU.
const EXTREMES: [u16; 6] = [0x0000, 0x8000, 0x0001, 0x83ff, 0x6bff, 0xebff];

/// `units`, filled up to whole blocks of the type.
fn whole_units(kind: TensorType, units: usize) -> usize {
    let block = kind.block().map_or(1, |block| block.weights as usize);
    (units * 32).next_multiple_of(block) / 32
}

pub(super) fn cases(cases: &mut Vec<Case>) {
    let mut add = |many: bool, p: Product| {
        let kernel = if many { "matmul" } else { "matvec" };
        let label = format!(
            "{} {:?} {}x{} tokens {} {:?}",
            p.kind,
            p.output,
            p.rows,
            p.units * 32,
            p.tokens,
            p.family
        );
        cases.push(Case::new(kernel, label, true, move |gpu| Box::pin(product(gpu, many, p))));
    };
    let base = Product {
        kind: TensorType::Q4_1,
        output: Output::Store,
        rows: 70,
        units: 18,
        tokens: 3,
        family: Family::Random,
    };
    for many in [false, true] {
        let tokens = if many { 67 } else { 3 };
        for kind in TensorType::SUPPORTED {
            add(many, Product { kind, tokens, units: whole_units(kind, base.units), ..base });
        }
        for output in [Output::Add, Output::SwiGlu] {
            add(many, Product { output, tokens, ..base });
        }
        for (rows, units) in [(1, 1), (2, 9), (32, 8), (66, 1), (13, 65)] {
            add(many, Product { rows, units, tokens: 1, ..base });
        }
        for family in [Family::NotFinite, Family::Zero] {
            add(many, Product { family, tokens, ..base });
        }
        add(many, Product { output: Output::SwiGlu, rows: 2, units: 1, tokens: 1, ..base });
        add(many, Product { rows: 130, units: 5, tokens: 130, kind: TensorType::Q8_0, ..base });
    }
    for kind in TensorType::SUPPORTED {
        for (first_row, units) in [(0, whole_units(kind, 3)), (40, whole_units(kind, 18))] {
            cases.push(Case::new(
                "embed",
                format!("{kind} part from {first_row}"),
                false,
                move |gpu| Box::pin(embed(gpu, kind, first_row, units)),
            ));
        }
    }
}

/// A row of a file's tensor.
fn row_bytes(random: &mut Random, kind: TensorType, scales: Scales, units: usize) -> Vec<u8> {
    let half = |random: &mut Random, size: f32| match scales {
        Scales::Extreme if random.below(4) == 0 => {
            EXTREMES[random.below(EXTREMES.len() as u32) as usize].to_le_bytes()
        }
        _ => f16::from_f32(random.float() * size).to_le_bytes(),
    };
    // Sizes of d and of m or dmin, and random bytes after them, in a block of the type.
    let (d, m, quants) = match kind {
        TensorType::Q4_0 => (0.1, None, 16),
        TensorType::Q4_1 => (0.1, Some(1.0), 16),
        TensorType::Q5_0 => (0.05, None, 20),
        TensorType::Q5_1 => (0.05, Some(1.0), 20),
        TensorType::Q8_0 => (0.01, None, 32),
        TensorType::Q4K => (2e-3, Some(0.02), 140),
        TensorType::Q5K => (1e-3, Some(0.02), 172),
        TensorType::Q6K => (3e-4, None, 208),
        TensorType::F16 => return floats(random, units, |v| f16::from_f32(v).to_le_bytes()),
        TensorType::BF16 => return floats(random, units, |v| bf16::from_f32(v).to_le_bytes()),
        _ => return floats(random, units, f32::to_le_bytes),
    };
    let mut bytes = Vec::new();
    let block = kind.block().map_or(32, |block| block.weights as usize);
    for _ in 0..units * 32 / block {
        let mut head = half(random, d).to_vec();
        if let Some(m) = m {
            head.extend(half(random, m));
        }
        let quants = (0..quants).map(|_| random.word() as u8);
        // A Q6_K block ends with its d.
        if kind == TensorType::Q6K {
            bytes.extend(quants);
            bytes.extend(head);
        } else {
            bytes.extend(head);
            bytes.extend(quants);
        }
    }
    bytes
}

fn floats<const N: usize>(
    random: &mut Random,
    units: usize,
    store: impl Fn(f32) -> [u8; N],
) -> Vec<u8> {
    random.floats(units * 32).into_iter().flat_map(store).collect()
}

/// Packed rows and the same rows as floats.
fn matrix(
    random: &mut Random,
    kind: TensorType,
    scales: Scales,
    rows: usize,
    units: usize,
) -> Result<(Packed, Vec<f32>)> {
    let mut packed = Packed::default();
    let mut weights = Vec::new();
    for _ in 0..rows {
        let row = row_bytes(random, kind, scales, units);
        kernels::pack_row(kind, &row, &mut packed)?;
        weights.extend(dequantize(kind, &row)?);
    }
    if packed.scales.is_empty() {
        packed.scales.push(0);
    }
    Ok((packed, weights))
}

async fn product(gpu: &Gpu, many: bool, p: Product) -> Result<Verdict> {
    let mut random = Random::new(p.rows as u64 * 1000 + p.units as u64);
    let columns = p.units * 32;
    let (packed, weights) = matrix(&mut random, p.kind, Scales::Plausible, p.rows, p.units)?;
    // A part of a larger matrix, with room between tokens on both sides.
    let (first_row, x_stride, y_stride) = (6, columns + 32, p.rows + 11);
    let mut x = random.floats(p.tokens * x_stride);
    match p.family {
        Family::Random => {}
        Family::NotFinite => {
            x[x_stride + columns / 2] = f32::NAN;
            x[2 * x_stride + 1] = f32::INFINITY;
        }
        Family::Zero => x.fill(0.0),
    }
    let before = random.floats(p.tokens * y_stride);
    let format = WeightFormat::of(p.kind)?;
    let params =
        [p.units as u32, p.rows as u32, first_row, x_stride as u32, y_stride as u32, 0, 1, 0, 0];
    let (spec, grid) = if many {
        (
            kernels::matmul(gpu.tier, format, p.output, Batch::One),
            kernels::matmul_grid(p.rows as u32, p.tokens as u32),
        )
    } else {
        (
            kernels::matvec(gpu.tier, format, p.units as u32, p.output, Batch::One),
            kernels::matvec_grid(gpu.tier, p.units as u32, p.rows as u32, p.tokens as u32),
        )
    };
    let (step, x_bits, y_bits) = ([p.tokens as u32], bits(&x), bits(&before));
    let y = if p.output == Output::Add { Data::InOut(&y_bits) } else { Data::Out(y_bits.len()) };
    let data = [
        Data::In(&step),
        Data::Uniform(&params),
        Data::In(&packed.weights),
        Data::In(&packed.scales),
        Data::In(&x_bits),
        y,
    ];
    let y = run(gpu, &spec, &data, (grid.0, grid.1, 1)).await?.remove(0);

    for token in 0..p.tokens {
        let x = &x[token * x_stride..][..columns];
        let mut want = matvec(&weights, columns, x);
        // Rounding of a sum of n products: (n + 8) 2^-24 sum |w x|, where a quantised weight's |d q| + |m| can exceed
        // |w| up to three times.
        let sizes: Vec<f32> = weights.iter().map(|w| w.abs()).collect();
        let x_sizes: Vec<f32> = x.iter().map(|x| x.abs()).collect();
        let unit = 2f64.powi(-24) * (columns as f64 + 8.0);
        let block_sizes: Vec<f32> =
            sizes.chunks(32).flat_map(|b| [b.iter().copied().fold(0.0, f32::max); 32]).collect();
        let mut tolerance: Vec<f64> = matvec(&block_sizes, columns, &x_sizes)
            .into_iter()
            .map(|s| 3.0 * unit * s + 1e-30)
            .collect();
        let mut first = first_row as usize;
        match p.output {
            Output::Store => {}
            Output::Add => {
                for (row, w) in want.iter_mut().enumerate() {
                    let old = before[token * y_stride + first + row];
                    *w += f64::from(old);
                    tolerance[row] += f64::from(old.abs()) * 2f64.powi(-23);
                }
            }
            Output::SwiGlu => {
                // |d silu(g) u| <= 1.1 |u| dg + |silu(g)| du, and exp adds (3 + 2 |g|) ulp of silu(g) u.
                tolerance = want
                    .chunks(2)
                    .zip(tolerance.chunks(2))
                    .map(|(w, t)| {
                        1.1 * (w[1].abs() + t[1]) * t[0]
                            + w[0].abs() * t[1]
                            + (8.0 + 2.0 * w[0].abs()) * 2f64.powi(-23) * (w[0] * w[1]).abs()
                            + 1e-30
                    })
                    .collect();
                want = swiglu(&want);
                first /= 2;
            }
        }
        let row = &y[token * y_stride..][..y_stride];
        let verdict = compare(&format!("token {token}"), &row[first..], &want, |i| tolerance[i]);
        if verdict.is_err() {
            return Ok(verdict);
        }
        if p.output != Output::Add {
            let beside = untouched("before the rows", &row[..first])
                .and(untouched("after the rows", &row[first + want.len()..]));
            if beside.is_err() {
                return Ok(beside);
            }
        }
    }
    Ok(Ok(()))
}

async fn embed(gpu: &Gpu, kind: TensorType, first_row: u32, units: usize) -> Result<Verdict> {
    let mut random = Random::new(7);
    let (packed, weights) = matrix(&mut random, kind, Scales::Extreme, 10, units)?;
    // Tokens before, in and after this part.
    let tokens =
        [first_row, first_row + 9, first_row.wrapping_sub(1), first_row + 10, first_row + 4];
    let mut step = vec![0; 13];
    step[7] = 13;
    for token in tokens {
        step.extend([0, 0, 0, token]);
    }
    let width = units * 32;
    let params = [units as u32, 10, first_row];
    let data = [
        Data::In(&step),
        Data::Uniform(&params),
        Data::In(&packed.weights),
        Data::In(&packed.scales),
        Data::Out(tokens.len() * width),
    ];
    let spec = kernels::embed(WeightFormat::of(kind)?);
    let x = run(gpu, &spec, &data, ((units as u32).div_ceil(8), tokens.len() as u32, 1))
        .await?
        .remove(0);
    for (i, token) in tokens.into_iter().enumerate() {
        let row = &x[i * width..][..width];
        let verdict = match token.checked_sub(first_row).filter(|r| *r < 10) {
            None => untouched("another part's token", row),
            Some(r) => {
                let want: Vec<f64> =
                    weights[r as usize * width..][..width].iter().map(|&w| f64::from(w)).collect();
                // d * q + m rounds twice, or once when fused.
                compare("embedding", row, &want, |i| (want[i].abs() + 2.0) * 2f64.powi(-22))
            }
        };
        if verdict.is_err() {
            return Ok(verdict);
        }
    }
    Ok(Ok(()))
}
