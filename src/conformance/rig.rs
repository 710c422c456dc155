//! Running one kernel on data: outputs are poisoned first, so that what a kernel should have written and did not is seen.

use super::Verdict;
use super::record::{Difference, Dispatch, Worst, finite, note, note_dispatch, of_case};
use crate::contract::{Bindings, Words};
use crate::gpu::{Binding, Gpu, ShaderSpec};
use crate::{Error, Result};
use half::f16;

/// The contents of outputs before a kernel runs: a NaN that no kernel makes.
pub(super) const POISON: u32 = 0x7fc0_dead;

/// One binding's data, in words.
#[derive(Clone, Copy)]
pub(super) enum Data<'a> {
    /// Read only.
    In(&'a [u32]),
    /// A uniform, filled up as those of the engine are.
    Uniform([u32; 12]),
    /// Written: so many words, poisoned.
    Out(usize),
    /// Read and written.
    InOut(&'a [u32]),
}

impl Data<'_> {
    pub(super) fn uniform(value: impl Words) -> Self {
        let mut words = [0; 12];
        words[..value.words().len()].copy_from_slice(value.words());
        Self::Uniform(words)
    }

    /// What the kernel finds.
    fn words(&self) -> Vec<u32> {
        match self {
            Self::In(words) | Self::InOut(words) => words.to_vec(),
            Self::Uniform(words) => words.to_vec(),
            Self::Out(words) => vec![POISON; *words],
        }
    }
}

/// Runs a kernel and returns the words of its `Out` and `InOut` bindings; none of the others.
pub(super) async fn run<'d, B>(
    gpu: &Gpu,
    spec: &ShaderSpec,
    data: B,
    grid: (u32, u32, u32),
) -> Result<B::Of<Vec<u32>>>
where
    B: Bindings<Value = Data<'d>> + Clone,
{
    let mut results = Box::pin(run_named(gpu, spec, data.clone().named(), grid)).await?.into_iter();
    Ok(data.map(|_, _| results.next().expect("a result each")))
}

// The same for any kernel, so that there is one of it.
async fn run_named(
    gpu: &Gpu,
    spec: &ShaderSpec,
    items: Vec<(&'static str, Data<'_>)>,
    grid: (u32, u32, u32),
) -> Result<Vec<Vec<u32>>> {
    let spec = &of_case(spec);
    let mut buffers = Vec::new();
    for (name, item) in &items {
        let what = format!("{name} of {}", spec.file);
        buffers.push(match item {
            Data::In(words) | Data::InOut(words) => {
                gpu.storage_with(&what, bytemuck::cast_slice(words)).await?
            }
            Data::Out(words) => {
                gpu.storage_with(&what, bytemuck::cast_slice(&vec![POISON; *words])).await?
            }
            Data::Uniform(words) => gpu.uniform(&what, *words).await?,
        });
    }
    let bound =
        items.iter().zip(&buffers).map(|((name, _), buffer)| (*name, Binding::from(buffer)));
    let op = gpu.op_named(spec, bound.collect()).await?;
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        op.record(&mut pass, grid.0, grid.1, grid.2);
    }
    gpu.submit(encoder)?;
    let mut results: Vec<Vec<u32>> = Vec::new();
    for ((_, item), buffer) in items.iter().zip(&buffers) {
        let words = match item {
            Data::Out(words) => *words,
            Data::InOut(words) => words.len(),
            _ => 0,
        };
        let bytes = match words {
            0 => Vec::new(),
            _ => gpu.download(buffer, words as u64 * 4).await?,
        };
        results.push(
            bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        );
    }
    note_dispatch(spec, || {
        let both = items.iter().zip(&results);
        let bindings = both.map(|((name, data), after)| (*name, data.words(), after.clone()));
        Dispatch { spec: spec.clone(), grid, bindings: bindings.collect() }
    });
    Ok(results)
}

/// Compares floats with a twin's values, each within its own tolerance, of which is said why it is so large. A value that is not
/// finite must be met by one that is not finite.
pub(super) fn compare(
    what: &str,
    got: &[u32],
    want: &[f64],
    why: &str,
    tolerance: impl Fn(usize) -> f64,
) -> Verdict {
    let tolerance: Vec<f64> = (0..want.len()).map(tolerance).collect();
    compare_within(what, got, want, why, &tolerance)
}

fn compare_within(what: &str, got: &[u32], want: &[f64], why: &str, tolerance: &[f64]) -> Verdict {
    if got.len() < want.len() {
        return Err(format!("{what}: {} values instead of {}", got.len(), want.len()));
    }
    let value = |i: usize| f64::from(f32::from_bits(got[i]));
    // How often the tolerance each is off.
    let off = |i: usize| match (got[i] == POISON, want[i].is_finite(), value(i).is_finite()) {
        (false, true, true) if (value(i) - want[i]).abs() <= tolerance[i] => 0.0,
        (false, false, false) => 0.0,
        (false, true, true) => (value(i) - want[i]).abs() / tolerance[i],
        _ => f64::INFINITY,
    };
    let wrong: Vec<(usize, f64)> =
        (0..want.len()).map(|i| (i, off(i))).filter(|&(_, off)| off != 0.0).collect();
    let Some(&first) = wrong.first() else { return Ok(()) };
    let (i, _) = wrong.iter().fold(first, |worst, &one| if one.1 > worst.1 { one } else { worst });
    let worst = Worst {
        part: what.to_owned(),
        index: i,
        expected: finite(want[i]),
        actual: finite(value(i)),
        tolerance: finite(tolerance[i]),
        derivation: why.to_owned(),
        wrong: wrong.len(),
        of: want.len(),
    };
    note(|record| {
        record.difference = Some(Difference {
            worst,
            got: got[..want.len()].to_vec(),
            want: want.to_vec(),
            tolerance: tolerance.to_vec(),
        });
    });
    let others = match wrong.len() {
        1 => String::new(),
        many => format!("; {many} of {} are wrong", want.len()),
    };
    Err(match got[i] {
        POISON => format!("{what}[{i}] was not written{others}"),
        _ => format!(
            "{what}[{i}] is {:e}, not {:e} within {:e}{others}",
            value(i),
            want[i],
            tolerance[i]
        ),
    })
}

/// One element that is wrong, by a comparison of its own.
pub(super) struct Wrong<'w> {
    pub(super) part: &'w str,
    pub(super) index: usize,
    pub(super) expected: f64,
    pub(super) actual: f64,
    pub(super) tolerance: f64,
    pub(super) why: &'w str,
}

impl Wrong<'_> {
    /// The verdict.
    pub(super) fn verdict(&self) -> Verdict {
        let Self { part, index, expected, actual, tolerance, why } = *self;
        let worst = Worst {
            part: part.to_owned(),
            index,
            expected: finite(expected),
            actual: finite(actual),
            tolerance: finite(tolerance),
            derivation: why.to_owned(),
            wrong: 1,
            of: 1,
        };
        let (got, want, tolerances) = (Vec::new(), Vec::new(), Vec::new());
        note(|record| {
            record.difference = Some(Difference { worst, got, want, tolerance: tolerances });
        });
        Err(match tolerance {
            0.0 => format!("{part}[{index}] is {actual}, not {expected}"),
            _ => format!("{part}[{index}] is {actual:e}, not {expected:e} within {tolerance:e}"),
        })
    }
}

/// Compares words that have to be the same.
pub(super) fn same_words(part: &str, got: &[u32], want: &[u32]) -> Verdict {
    let wrong = got.iter().zip(want).enumerate().find(|(_, (got, want))| got != want);
    let Some((index, (&actual, &expected))) = wrong else { return Ok(()) };
    let (expected, actual) = (expected.into(), actual.into());
    Wrong { part, index, expected, actual, tolerance: 0.0, why: "Integers are exact." }.verdict()
}

/// The last place of a number in f16.
pub(super) fn last_place(value: f16) -> f64 {
    let next = f16::from_bits(value.to_bits() & 0x7fff).to_f64();
    (f16::from_bits((value.to_bits() & 0x7fff) + 1).to_f64() - next).abs()
}

/// Why a number in f16 may be off.
pub(super) const HALF: &str =
    "Rounding to f16 is to nearest in practice, but WGSL allows either neighbour.";

/// Why a norm may be off by so much.
pub(super) const NORM: &str = "The mean of n squares is off by at most (n + 8) 2^-24 of itself, its root by half of that; inverseSqrt is within 2 ulp and two \
     products round.";

/// The adapter's tier lacks what a case needs.
pub(super) fn lacking(gpu: &Gpu, value: String, limit: impl Into<String>) -> Error {
    let adapter = gpu.label().to_owned();
    Error::Unsupported { adapter, what: "the tier".into(), value, limit: limit.into() }
}

/// Refuses a tier whose lanes are emulated: norms are kernels of their own there.
pub(super) fn needs_lanes(gpu: &Gpu) -> Result<()> {
    match gpu.tier.emulates_lanes() {
        false => Ok(()),
        true => Err(lacking(
            gpu,
            format!("{} (lanes are emulated)", gpu.tier.name),
            "products that norm their inputs need lanes that run at once",
        )),
    }
}

/// Whether words that no lane should write are still poison.
pub(super) fn untouched(what: &str, words: &[u32]) -> Verdict {
    match words.iter().position(|&w| w != POISON) {
        None => Ok(()),
        Some(i) => Err(format!("{what}[{i}] was written, but nothing belongs there")),
    }
}

/// Floats as the cache stores them: f16 in pairs, what is larger as the largest.
pub(super) fn packed(values: &[f32]) -> impl Iterator<Item = u32> + '_ {
    let half = |value: f32| {
        u32::from(f16::from_f32(value.clamp(f16::MIN.to_f32(), f16::MAX.to_f32())).to_bits())
    };
    values.chunks_exact(2).map(move |pair| half(pair[0]) | half(pair[1]) << 16)
}

/// Compares pairs of f16 with those of [`packed`]; where nothing is wanted, nothing must be written.
pub(super) fn compare_packed(what: &str, got: &[u32], want: &[Option<u32>]) -> Verdict {
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let Some(want) = want else {
            untouched(&format!("{what} from word {i}"), &[got])?;
            continue;
        };
        for at in 0..2 {
            let half = |word: u32| f16::from_bits((word >> (at * 16)) as u16);
            let (got, want) = (half(got), half(want));
            if got.to_bits().abs_diff(want.to_bits()) > 1 {
                let (expected, actual, tolerance) = (want.into(), got.into(), last_place(want));
                let (part, index) = (&*format!("{what} halves"), 2 * i + at);
                return Wrong { part, index, expected, actual, tolerance, why: HALF }.verdict();
            }
        }
    }
    Ok(())
}

/// Bits of floats.
pub(super) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// A reproducible stream of inputs (splitmix64).
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn word(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z >> 32) as u32
    }

    pub(super) fn below(&mut self, limit: u32) -> u32 {
        ((u64::from(self.word()) * u64::from(limit)) >> 32) as u32
    }

    /// Uniform in -1 .. 1.
    pub(super) fn float(&mut self) -> f32 {
        (self.word() >> 8) as f32 / (1 << 23) as f32 - 1.0
    }

    pub(super) fn floats(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.float()).collect()
    }
}
