//! Random weight matrices of every type, and what twins make of products with them.

use super::Verdict;
use super::rig::{CAPPED, Data, Random, cap_error, compare, in_eights, run};
use crate::Result;
use crate::attention::Activation;
use crate::formats::TensorType;
use crate::formats::dequantise;
use crate::formats::{Packed, WeightFormat, pack_row};
use crate::gpu::{Gpu, ShaderSpec, Tier};
use crate::kernels::{self, MatrixParams};
use crate::reference::model::{dot, glu, matvec, rms_norm, soft_capped};
use half::{bf16, f16};

/// How a matrix's scales are drawn.
#[derive(Clone, Copy, Debug)]
pub(super) enum Scales {
    Plausible,
    /// One in four is zero, subnormal or as large as every format takes. Only for kernels that add no weights up: large
    /// ones would hide what becomes of others.
    Extreme,
}

/// Zeros, the smallest and the largest subnormal, and the largest scale that Q5_0 can have on the GPU.
const EXTREMES: [u16; 6] = [0x0000, 0x8000, 0x0001, 0x83ff, 0x6bff, 0xebff];

/// How `matvec_quants` goes through a matrix in subgroups of 8: teams that share rows, and turns of a workgroup.
pub(super) type Eights = (u32, u32);

/// What a case's label says of it.
pub(super) fn eights_label((shares, turns): Eights) -> String {
    match (shares, turns) {
        (1, 1) => String::new(),
        _ => format!(" shares {shares} turns {turns}"),
    }
}

/// `matvec_quants` for larger subgroups, made smaller: eight teams, which have 32 rows where they share none. With how many workgroups
/// the matrix takes, and what they are told.
pub(super) fn eights(
    gpu: &Gpu,
    (spec, params): (ShaderSpec, MatrixParams),
    (shares, turns): Eights,
) -> Result<(ShaderSpec, u32, MatrixParams)> {
    let spec = in_eights(gpu, spec, &[("WORKGROUP", 64), ("LANES", 8), ("PORTION", 32)])?;
    let params = MatrixParams { share_bits: shares.ilog2(), turns, ..params };
    Ok((spec, params.rows.div_ceil(32 / shares * turns), params))
}

/// `units`, filled up to whole blocks of the type.
pub(super) fn whole_units(kind: TensorType, units: usize) -> usize {
    let block = kind.block().map_or(1, |block| block.weights as usize);
    (units * 32).next_multiple_of(block) / 32
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
pub(super) fn matrix(
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
        pack_row(kind, &row, &mut packed)?;
        weights.extend(dequantise(kind, &row)?);
    }
    if packed.scales.is_empty() {
        packed.scales.push(0);
    }
    Ok((packed, weights))
}

/// The inputs of the product of many tokens: as they are, or as f16 where the kernel multiplies those.
pub(super) async fn inputs(
    gpu: &Gpu,
    format: WeightFormat,
    units: usize,
    stride: usize,
    x: &[u32],
) -> Result<Vec<u32>> {
    if !kernels::multiplies_halves(gpu.tier, format) {
        return Ok(x.to_vec());
    }
    let data = kernels::HalfRows {
        rows: Data::uniform(kernels::half_rows_params(units as u32, stride as u32)),
        x: Data::In(x),
        halves: Data::Out(x.len()),
    };
    let grid = ((x.len() / stride) as u32, 1, 1);
    Ok(run(gpu, &kernels::half_rows(gpu.tier), data, grid).await?.halves)
}

/// The shift of weights where they become f16.
pub(super) fn weight_shift(weights: &[f32]) -> i32 {
    kernels::weight_shift(largest(weights))
}

/// The largest finite magnitude.
pub(super) fn largest(weights: &[f32]) -> f32 {
    weights.iter().map(|w| w.abs()).filter(|w| w.is_finite()).fold(0.0, f32::max)
}

const SILU: &str =
    "|d silu(g) u| <= 1.1 |u| dg + |silu(g)| du, and exp adds (3 + 2 |g|) ulp of silu(g) u.";

const GELU: &str = "|d gelu(g) u| <= 1.13 |u| dg + |gelu(g)| du. exp adds 3 + 2 |x| ulp for x = 1.6 (g + 0.0447 g^3), and its argument's five roundings \
    5 |x| / 2, weighed by exp / (1 + exp): for g above 0 that is below 8, and below 0, where gelu vanishes with exp, |gelu(g)| times it is \
    below |g| (8 + 10 |g|) ulp.";

/// A twin's result, and how far a kernel may be off.
#[derive(Clone, Debug, Default)]
pub(super) struct Expected {
    pub(super) values: Vec<f64>,
    pub(super) tolerance: Vec<f64>,
    /// Why so far.
    pub(super) why: String,
}

impl Expected {
    /// W x.
    pub(super) fn product(weights: &[f32], x: &[f32]) -> Self {
        let columns = x.len();
        const WHY: &str = "Rounding of a sum of n products: (n + 8) 2^-24 sum |w x|, where a quantised weight's |d q| + |m| can exceed \
            |w| up to three times.";
        let unit = 2f64.powi(-24) * (columns as f64 + 8.0);
        let sizes: Vec<f32> = weights.iter().map(|w| w.abs()).collect();
        let x_sizes: Vec<f32> = x.iter().map(|x| x.abs()).collect();
        let block_sizes: Vec<f32> =
            sizes.chunks(32).flat_map(|b| [b.iter().copied().fold(0.0, f32::max); 32]).collect();
        let tolerance = matvec(&block_sizes, columns, &x_sizes)
            .into_iter()
            .map(|s| 3.0 * unit * s + 1e-30)
            .collect();
        Self { values: matvec(weights, columns, x), tolerance, why: WHY.into() }
    }

    /// W x by the kernel of few tokens, which may make integers of x.
    pub(super) fn few(tier: &Tier, format: WeightFormat, weights: &[f32], x: &[f32]) -> Self {
        let mut product = Self::product(weights, x);
        if !kernels::quantises_inputs(tier, format) {
            return product;
        }
        product.why += " An input as an integer of 16 bits is off by 1 / 65024 of the largest of its unit of 32, or of 1e-30.";
        let off: Vec<f32> = x
            .chunks(32)
            .flat_map(|unit| [largest(unit).max(1e-30) / 65024.0 * 1.001; 32])
            .take(x.len())
            .collect();
        let sizes: Vec<f32> = weights.iter().map(|w| w.abs()).collect();
        for (tolerance, off) in product.tolerance.iter_mut().zip(matvec(&sizes, x.len(), &off)) {
            *tolerance += off;
        }
        product
    }

    /// W rmsnorm(x) by that kernel, where the first numbers of x count, as many as the norm has weights.
    pub(super) fn of_normed(
        tier: &Tier,
        format: WeightFormat,
        weights: &[f32],
        x: &[f32],
        (weight, epsilon): (&[f32], f32),
    ) -> Self {
        let normed = rms_norm(&x[..weight.len()], weight, epsilon);
        let mut inputs: Vec<f32> = normed.into_iter().map(|v| v as f32).collect();
        inputs.resize(x.len(), 0.0);
        let mut product = Self::few(tier, format, weights, &inputs);
        product.why += " The norm is off by (n / 2 + 12) 2^-24 of itself, and each input by two roundings more: less than half as much \
            again.";
        product.tolerance.iter_mut().for_each(|tolerance| *tolerance *= 1.5);
        product
    }

    /// W x by the kernel of many tokens, which may round both to f16.
    pub(super) fn many(gpu: &Gpu, format: WeightFormat, weights: &[f32], x: &[f32]) -> Self {
        let mut product = Self::product(weights, x);
        if !kernels::multiplies_halves(gpu.tier, format) {
            return product;
        }
        let columns = x.len();
        let sizes = |values: &[f32]| values.iter().map(|v| v.abs()).collect::<Vec<f32>>();
        let (w, x) = (sizes(weights), sizes(x));
        let most = |values: &[f32]| f64::from(values.iter().copied().fold(0.0, f32::max));
        let (most_w, most_x) = (most(&w), most(&x));
        let all_x: f64 = x.iter().map(|&x| f64::from(x)).sum();
        product.why += " Rounding to f16 is off by 2^-11 of a number, or by 2^-28 of the largest where that makes it subnormal. Matrix \
            units add products without rounding each sum to nearest: (n + 8) 2^-22, four times what floats take.";
        let relative = 2.0 * 2f64.powi(-11) + (columns as f64 + 9.0) * 2f64.powi(-22);
        for (row, tolerance) in w.chunks_exact(columns).zip(&mut product.tolerance) {
            let all_w: f64 = row.iter().map(|&w| f64::from(w)).sum();
            let subnormal = (most_w * all_x + most_x * all_w) * 2f64.powi(-28);
            *tolerance += relative * dot(row, &x) + subnormal;
        }
        product
    }

    /// These under a soft-cap.
    pub(super) fn capped(&self, cap: f32) -> Self {
        let tolerance = self.tolerance.iter().map(|off| off + cap_error(Some(cap))).collect();
        let values = self.values.iter().map(|&value| soft_capped(value, Some(cap))).collect();
        Self { values, tolerance, why: format!("{} {CAPPED}", self.why) }
    }

    /// activated(gate) * up of rows (gate, up).
    pub(super) fn glu(&self, activation: Activation) -> Self {
        // How much of a gate's error its activation has, and what exp's argument is relative to the gate, up to where exp vanishes.
        let (slope, exponent, why) = match activation {
            Activation::Silu => (1.1, 2.0, SILU),
            Activation::Gelu => (1.13, 10.0, GELU),
        };
        let tolerance = self
            .values
            .chunks(2)
            .zip(self.tolerance.chunks(2))
            .map(|(w, t)| {
                slope * (w[1].abs() + t[1]) * t[0]
                    + w[0].abs() * t[1]
                    + (8.0 + exponent * w[0].abs()) * 2f64.powi(-23) * (w[0] * w[1]).abs()
                    + 1e-30
            })
            .collect();
        let values = glu(activation, &self.values);
        Self { values, tolerance, why: format!("{} {why}", self.why) }
    }

    /// activated(gate) * these, of gates that are exact.
    pub(super) fn gated(&self, activation: Activation, gates: &[f32]) -> Self {
        let beside = |gates: &mut dyn Iterator<Item = f64>, ups: &[f64]| {
            gates.zip(ups).flat_map(|(gate, &up)| [gate, up]).collect()
        };
        let values = beside(&mut gates.iter().map(|&gate| gate.into()), &self.values);
        let tolerance = beside(&mut gates.iter().map(|_| 0.0), &self.tolerance);
        Self { values, tolerance, why: self.why.clone() }.glu(activation)
    }

    /// `start + sum of factor * term`, summed in any order.
    pub(super) fn weighed_sum(start: &[f32], terms: &[(f32, Self)]) -> Self {
        let values: Vec<f64> = (0..start.len())
            .map(|i| {
                let sum: f64 = terms.iter().map(|(f, term)| f64::from(*f) * term.values[i]).sum();
                f64::from(start[i]) + sum
            })
            .collect();
        const WHY: &str =
            "Every term is off by its own tolerance; it and every sum that it is part of round.";
        let own = terms.first().map_or("", |(_, term)| &term.why);
        let tolerance = (0..start.len())
            .map(|i| {
                let own: f64 =
                    terms.iter().map(|(f, term)| f64::from(f.abs()) * term.tolerance[i]).sum();
                let size: f64 = terms
                    .iter()
                    .map(|(f, term)| (f64::from(*f) * term.values[i]).abs())
                    .sum::<f64>()
                    + f64::from(start[i].abs());
                own + size * (terms.len() as f64 + 1.0) * 2f64.powi(-23)
            })
            .collect();
        Self { values, tolerance, why: format!("{own} {WHY}") }
    }

    /// Compares a kernel's words.
    pub(super) fn check(&self, what: &str, got: &[u32]) -> Verdict {
        compare(what, got, &self.values, &self.why, |i| self.tolerance[i])
    }
}
