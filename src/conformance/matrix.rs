//! Cases of `matvec`, `matmul`, `matmul_narrow` and `embed`.

use super::product::{
    Eights, Expected, Scales, eights, eights_label, inputs, matrix, weight_shift, whole_units,
};
use super::rig::{Data, Random, bits, compare, lacking, needs_lanes, of_32, run, untouched};
use super::{Case, Verdict};
use crate::Result;
use crate::attention::Activation;
use crate::contract::{StepHeader, StepRow, Words};
use crate::formats::TensorType;
use crate::formats::WeightFormat;
use crate::gpu::Gpu;
use crate::kernels::{self, Batch, EmbedParams, Input, MatrixParams, Output, Tokens};

#[derive(Clone, Copy, Debug)]
struct Product {
    kind: TensorType,
    output: Output,
    rows: usize,
    units: usize,
    tokens: usize,
    family: Family,
    /// Whether inputs are normed: by `matvec` alone, where lanes are real.
    normed: bool,
    /// Tokens of a workgroup of `matvec`, where there may be so many.
    at_a_time: u32,
    /// Of [`Path::Eights`].
    eights: Eights,
}

/// The kernel that makes a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Path {
    Matvec,
    Matmul,
    /// `matmul_narrow`, by so many sixteens of tokens.
    Narrow(u32),
    /// `matvec_quants`, in subgroups of 8.
    Eights,
}

#[derive(Clone, Copy, Debug)]
enum Family {
    Random,
    /// One input of the second token is NaN, one of the third infinite: other tokens must not notice.
    NotFinite,
    Zero,
}

/// Types whose units have half a word of scale each.
const HALF_SCALES: [TensorType; 2] = [TensorType::Q4_0, TensorType::Q8_0];

pub(super) fn cases(cases: &mut Vec<Case>) {
    let mut add = |path: Path, p: Product| {
        let (kernel, by) = match path {
            Path::Matvec => ("matvec", ["", "", " by twos", "", " by fours"][p.at_a_time as usize]),
            Path::Matmul => ("matmul", ""),
            Path::Narrow(1) => ("matmul_narrow", ""),
            Path::Narrow(2) => ("matmul_narrow", " by thirty-twos"),
            Path::Narrow(_) => ("matmul_narrow", " by sixty-fours"),
            Path::Eights => ("matvec_quants", [" by ones", " by fours"][p.at_a_time as usize / 4]),
        };
        let label = format!(
            "{} {} {}x{} tokens {}{by} {:?}{}{}",
            p.kind,
            // Without parentheses, which shells read.
            format!("{:?}", p.output).replace('(', "-").replace(')', ""),
            p.rows,
            p.units * 32,
            p.tokens,
            p.family,
            if p.normed { " normed" } else { "" },
            eights_label(p.eights)
        );
        cases.push(Case::new(kernel, label, true, move |gpu| Box::pin(product(gpu, path, p))));
    };
    let base = Product {
        kind: TensorType::Q4_1,
        output: Output::Store,
        rows: 70,
        units: 18,
        tokens: 3,
        family: Family::Random,
        normed: false,
        at_a_time: 1,
        eights: (1, 1),
    };
    let of = |activation| [Output::Glu(activation), Output::Gated(activation)];
    let [silu, gelu] = [Activation::Silu, Activation::Gelu].map(of);
    for path in [Path::Matvec, Path::Matmul, Path::Narrow(1)] {
        let tokens = if path == Path::Matmul { 67 } else { 3 };
        for kind in TensorType::SUPPORTED {
            add(path, Product { kind, tokens, units: whole_units(kind, base.units), ..base });
        }
        // Two units share a word of scales, which may be of two rows.
        for kind in HALF_SCALES {
            add(path, Product { kind, tokens, rows: 13, units: 9, ..base });
        }
        for output in [Output::Add, Output::Capped(0.5)].into_iter().chain(silu).chain(gelu) {
            add(path, Product { output, tokens, ..base });
        }
        for (rows, units) in [(1, 1), (2, 9), (32, 8), (66, 1), (13, 65)] {
            add(path, Product { rows, units, tokens: 1, ..base });
        }
        for family in [Family::NotFinite, Family::Zero] {
            add(path, Product { family, tokens, ..base });
        }
        add(path, Product { output: silu[0], rows: 2, units: 1, tokens: 1, ..base });
        add(path, Product { rows: 130, units: 5, tokens: 130, kind: TensorType::Q8_0, ..base });
        add(path, Product { rows: 260, units: 6, tokens: 259, kind: TensorType::BF16, ..base });
        // More than half of a tile of 64, in which no other tile can stand in for a part that is missing.
        add(path, Product { rows: 120, units: 3, tokens: 120, kind: TensorType::Q8_0, ..base });
    }
    // Rows of one unit, of one turn of a team's lanes and of several, in all sizes of teams.
    for units in [1, 5, 18, 65, 130] {
        add(Path::Matvec, Product { units, normed: true, ..base });
    }
    // Many rows, for which workgroups and teams have other sizes.
    for (rows, units) in [(1030, 3), (1030, 18), (1030, 65), (16_390, 50)] {
        add(Path::Matvec, Product { rows, units, tokens: 1, ..base });
        add(Path::Matvec, Product { rows, units, tokens: 1, normed: true, ..base });
    }
    // Several tokens a workgroup: fewer than it may have, as many, and more, whose last workgroup is not full.
    for (at_a_time, tokens) in [(2, 1), (2, 2), (2, 5), (4, 3), (4, 4), (4, 9)] {
        let several = Product { at_a_time, tokens, ..base };
        for kind in TensorType::SUPPORTED {
            add(Path::Matvec, Product { kind, units: whole_units(kind, base.units), ..several });
        }
        for output in [Output::Add, Output::Capped(0.5)].into_iter().chain(silu) {
            add(Path::Matvec, Product { output, normed: true, ..several });
        }
        for (rows, units) in [(1, 1), (70, 9), (13, 130), (1030, 65), (16_390, 5)] {
            add(Path::Matvec, Product { rows, units, normed: true, ..several });
        }
        if tokens >= 3 {
            add(Path::Matvec, Product { family: Family::NotFinite, normed: true, ..several });
        }
    }
    add(Path::Matvec, Product { output: silu[0], normed: true, ..base });
    add(Path::Matvec, Product { family: Family::NotFinite, normed: true, ..base });
    for at_a_time in [1, 4] {
        let base = Product { at_a_time, tokens: at_a_time as usize + 2, ..base };
        for kind in TensorType::SUPPORTED {
            if WeightFormat::of(kind).is_ok_and(WeightFormat::is_quantised) {
                add(Path::Eights, Product { kind, units: whole_units(kind, base.units), ..base });
            }
        }
        for kind in HALF_SCALES {
            add(Path::Eights, Product { kind, rows: 13, units: 9, ..base });
        }
        for (rows, units) in [(1, 1), (2, 9), (70, 32), (13, 65), (34, 130)] {
            add(Path::Eights, Product { rows, units, normed: true, ..base });
            add(Path::Eights, Product { rows, units, output: Output::Add, ..base });
        }
        for family in [Family::NotFinite, Family::Zero] {
            add(Path::Eights, Product { family, ..base });
        }
        // Rows that are shared, and several turns, of which the last workgroup has not all; inputs of a portion, which stay, and of
        // several.
        for eights in [(2, 1), (4, 1), (1, 3), (2, 2)] {
            for (rows, units) in [(1, 1), (13, 5), (70, 32), (130, 65), (34, 130)] {
                add(Path::Eights, Product { rows, units, eights, normed: true, ..base });
            }
            for output in [Output::Add, silu[0]] {
                add(Path::Eights, Product { output, eights, ..base });
            }
            add(Path::Eights, Product { family: Family::NotFinite, eights, normed: true, ..base });
        }
    }
    // Whole tiles of tokens, one token more and less, and tiles that are hardly filled; rows and units likewise, in both shapes of
    // workgroups.
    for (sixteens, tokens) in
        [(1, 1), (1, 16), (1, 17), (2, 17), (2, 32), (2, 65), (4, 33), (4, 64)]
    {
        for (rows, units) in [(1, 1), (70, 2), (48, 25), (130, 64), (16_390, 11)] {
            let path = Path::Narrow(sixteens);
            add(path, Product { rows, units, tokens, kind: TensorType::Q8_0, ..base });
            add(path, Product { rows, units, tokens, output: Output::Add, ..base });
        }
        if tokens > 16 {
            let path = Path::Narrow(sixteens);
            add(path, Product { tokens, output: silu[0], ..base });
            add(path, Product { tokens, family: Family::NotFinite, ..base });
        }
    }
    for kind in TensorType::SUPPORTED {
        for (first_row, units) in [(0, whole_units(kind, 3)), (40, whole_units(kind, 18))] {
            cases.push(Case::new(
                "embed",
                format!("{kind} part from {first_row}"),
                false,
                move |gpu| Box::pin(embed(gpu, kind, (first_row, units), 1.0)),
            ));
        }
    }
    cases.push(Case::new("embed", "Q4_K times a factor", false, |gpu| {
        Box::pin(embed(gpu, TensorType::Q4K, (40, whole_units(TensorType::Q4K, 18)), 59.866516))
    }));
}

// The most tokens that a workgroup of `matvec` may have here. Short rows have small teams, whose inputs every adapter has the memory
// for.
fn at_a_time(gpu: &Gpu, p: &Product) -> u32 {
    let small = match p.units {
        _ if gpu.tier.emulates_lanes() => 1,
        ..12 => 4,
        12..48 => 2,
        _ => 1,
    };
    kernels::tokens_at_a_time(gpu.tier).max(small)
}

async fn product(gpu: &Gpu, path: Path, p: Product) -> Result<Verdict> {
    if p.normed && path != Path::Eights {
        needs_lanes(gpu)?;
    }
    let format = WeightFormat::of(p.kind)?;
    if let Path::Narrow(sixteens) = path
        && !kernels::narrow_sixteens(gpu.tier, format).contains(&sixteens)
    {
        let need =
            format!("narrow tiles of {} need matrix units, and a type that becomes f16", p.kind);
        return Err(lacking(gpu, format!("{} with {}", gpu.tier.name, p.kind), need));
    }
    let most = at_a_time(gpu, &p);
    if p.at_a_time > most && path != Path::Eights {
        let limit = format!(
            "products of such rows by {} tokens a workgroup need more of a tier",
            p.at_a_time
        );
        return Err(lacking(gpu, format!("{} (by {most} at most)", gpu.tier.name), limit));
    }
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
    // The last numbers of a unit lie beyond what is normed.
    let norm_weight = random.floats(columns);
    let (width, epsilon) = (columns - 3, 1e-5);
    let mut input = Input::Plain;
    if p.normed {
        input = Input::Normed { width: width as u32, epsilon };
        for (token, x) in x.chunks_mut(x_stride).enumerate() {
            // Inputs whose norm epsilon decides, and large ones.
            x.iter_mut().for_each(|v| *v *= [1.0, 1e-4, 1e4][token % 3]);
            x[width..columns].fill(f32::NAN);
        }
    }
    let before = random.floats(p.tokens * y_stride);
    let params = MatrixParams {
        units: p.units as u32,
        rows: p.rows as u32,
        first_row,
        x_stride: x_stride as u32,
        y_stride: y_stride as u32,
        batches: 1,
        weight_shift: weight_shift(&weights),
        ..MatrixParams::default()
    };
    let count = p.tokens as u32;
    // Rows and outputs in turn, so that a kernel that counts the other ones finds none.
    let rows = StepHeader { rows: count, ..StepHeader::default() };
    let (of, step) = match p.at_a_time {
        1 => (Tokens::One, rows),
        2 => (Tokens::Rows(2), rows),
        more => (Tokens::Outputs(more), StepHeader { outputs: count, ..StepHeader::default() }),
    };
    let groups = count.div_ceil(p.at_a_time);
    let tier = if path == Path::Eights { of_32() } else { gpu.tier };
    let size = (p.rows as u32, p.units as u32);
    let (spec, grid, params) = match path {
        Path::Matmul => (
            kernels::matmul(tier, format, p.output, Batch::One),
            kernels::matmul_grid(tier, format, size.0, count),
            params.of_output(p.output),
        ),
        Path::Narrow(sixteens) => (
            kernels::matmul_narrow(format, size.0, sixteens, p.output),
            kernels::matmul_narrow_grid(size.0, sixteens, count),
            params.of_output(p.output),
        ),
        Path::Matvec | Path::Eights => {
            let spec = kernels::matvec(tier, format, size, p.output, (Batch::One, of));
            let params = params.of_matvec(tier, format, input, p.output);
            if path == Path::Eights {
                let (spec, workgroups, params) = eights(gpu, (spec, params), p.eights)?;
                (spec, (workgroups, groups), params)
            } else {
                (spec, kernels::matvec_grid(tier, format, size, groups), params)
            }
        }
    };
    let is_matvec = matches!(path, Path::Matvec | Path::Eights);
    let norms = is_matvec && kernels::matvec_norms(tier);
    let (mut x_bits, y_bits) = (bits(&x), bits(&before));
    if !is_matvec {
        x_bits = inputs(gpu, format, p.units, x_stride, &x_bits).await?;
    }
    let y = match p.output {
        Output::Add | Output::Gated(_) => Data::InOut(&y_bits),
        Output::Store | Output::Capped(_) | Output::Glu(_) => Data::Out(y_bits.len()),
    };
    let norm_bits = bits(&norm_weight);
    let data = kernels::Product {
        step: Data::In(step.words()),
        matrix: Data::uniform(params),
        weights: Data::In(&packed.weights),
        scales: Data::In(&packed.scales),
        x: Data::In(&x_bits),
        y,
        slots: None,
        lists: None,
        norm_weight: norms.then_some(Data::In(&norm_bits)),
    };
    let y = run(gpu, &spec, data, (grid.0, grid.1, 1)).await?.y;

    for token in 0..p.tokens {
        let x = &x[token * x_stride..][..columns];
        let product = if p.normed {
            Expected::of_normed(tier, format, &weights, x, (&norm_weight[..width], epsilon))
        } else if !is_matvec {
            Expected::many(gpu, format, &weights, x)
        } else {
            Expected::few(tier, format, &weights, x)
        };
        let mut first = first_row as usize;
        let want = match p.output {
            Output::Store => product,
            Output::Capped(cap) => product.capped(cap),
            Output::Add => {
                let before = &before[token * y_stride + first..][..p.rows];
                Expected::weighed_sum(before, &[(1.0, product)])
            }
            Output::Glu(activation) => {
                first /= 2;
                product.glu(activation)
            }
            Output::Gated(activation) => {
                product.gated(activation, &before[token * y_stride + first..][..p.rows])
            }
        };
        let row = &y[token * y_stride..][..y_stride];
        let verdict = want.check(&format!("token {token}"), &row[first..]);
        if verdict.is_err() {
            return Ok(verdict);
        }
        if !matches!(p.output, Output::Add | Output::Gated(_)) {
            let beside = untouched("before the rows", &row[..first])
                .and(untouched("after the rows", &row[first + want.values.len()..]));
            if beside.is_err() {
                return Ok(beside);
            }
        }
    }
    Ok(Ok(()))
}

async fn embed(
    gpu: &Gpu,
    kind: TensorType,
    (first_row, units): (u32, usize),
    factor: f32,
) -> Result<Verdict> {
    let mut random = Random::new(7);
    let (packed, weights) = matrix(&mut random, kind, Scales::Extreme, 10, units)?;
    // Tokens before, in and after this part.
    let tokens =
        [first_row, first_row + 9, first_row.wrapping_sub(1), first_row + 10, first_row + 4];
    let header = StepHeader { rows_at: StepHeader::COUNT as u32, ..StepHeader::default() };
    let mut step = header.words().to_vec();
    for token in tokens {
        step.extend_from_slice(StepRow { token, ..StepRow::default() }.words());
    }
    let width = units * 32;
    let data = kernels::Embed {
        step: Data::In(&step),
        embed: Data::uniform(EmbedParams { units: units as u32, rows: 10, first_row, factor }),
        weights: Data::In(&packed.weights),
        scales: Data::In(&packed.scales),
        x: Data::Out(tokens.len() * width),
    };
    let spec = kernels::embed(WeightFormat::of(kind)?);
    let grid = ((units as u32).div_ceil(8), tokens.len() as u32, 1);
    let x = run(gpu, &spec, data, grid).await?.x;
    for (i, token) in tokens.into_iter().enumerate() {
        let row = &x[i * width..][..width];
        let verdict = match token.checked_sub(first_row).filter(|r| *r < 10) {
            None => untouched("another part's token", row),
            Some(r) => {
                let factor = f64::from(factor);
                let own = &weights[r as usize * width..][..width];
                let want: Vec<f64> = own.iter().map(|&w| f64::from(w) * factor).collect();
                const WHY: &str = "d * q + m rounds twice, or once when fused, and its product with a factor once.";
                compare("embedding", row, &want, WHY, |i| {
                    (want[i].abs() + 2.0 * factor) * 2f64.powi(-22)
                })
            }
        };
        if verdict.is_err() {
            return Ok(verdict);
        }
    }
    Ok(Ok(()))
}
