//! Running one kernel on data: outputs are poisoned first, so that what a kernel should have written and did not is seen.

use super::Verdict;
use super::record::{Worst, finite, note, of_case, scripted};
use super::script::{Dispatch, Holds, Script};
use crate::contract::{Bindings, UNIFORM_WORDS, Words};
use crate::gpu::{Binding, Gpu, ShaderSpec, Tier};
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
    Uniform([u32; UNIFORM_WORDS]),
    /// Written: so many words, poisoned.
    Out(usize),
    /// Read and written.
    InOut(&'a [u32]),
}

impl Data<'_> {
    pub(super) fn uniform(value: impl Words) -> Self {
        Self::Uniform(value.padded())
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
    note(|record| record.specs.push(spec.clone()));
    if let Some(marks) = scripted(|script| written_down(script, spec, &items, grid)) {
        return Ok(marks);
    }
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
    Ok(results)
}

/// Whether the case runs, and is not just written down.
pub(super) fn is_run() -> bool {
    scripted(|_| ()).is_none()
}

// What would run, and what it would leave.
fn written_down(
    script: &mut Script,
    spec: &ShaderSpec,
    items: &[(&'static str, Data<'_>)],
    grid: (u32, u32, u32),
) -> Vec<Vec<u32>> {
    let of = |(name, data): &(&'static str, Data<'_>)| {
        let buffer = match data {
            Data::In(words) => script.found(name, words.to_vec(), false),
            Data::InOut(words) => script.found(name, words.to_vec(), true),
            Data::Uniform(words) => script.found(name, words.to_vec(), false),
            Data::Out(words) => script.add(name, *words, Holds::Poison),
        };
        (*name, buffer)
    };
    let bindings: Vec<_> = items.iter().map(of).collect();
    let left = |(&(_, data), &(_, buffer)): (&(_, Data<'_>), &(_, usize))| match data {
        Data::Out(_) | Data::InOut(_) => script.left(buffer),
        _ => Vec::new(),
    };
    let marks = items.iter().zip(&bindings).map(left).collect();
    script.dispatches.push(Dispatch { spec: spec.clone(), grid, bindings });
    marks
}

/// How words hold the elements of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    F32,
    F16,
    U32,
    /// Natural numbers of so many bits, the lowest first.
    Bits(u32),
}

impl Format {
    /// Elements of a word.
    fn of_word(self) -> usize {
        match self {
            Self::F32 | Self::U32 => 1,
            Self::F16 => 2,
            Self::Bits(bits) => 32 / bits as usize,
        }
    }

    fn value(self, words: &[u32], index: usize) -> f64 {
        let (word, at) = (words[index / self.of_word()], (index % self.of_word()) as u32);
        match self {
            Self::F32 => f32::from_bits(word).into(),
            Self::U32 => word.into(),
            Self::F16 => f16::from_bits((word >> (16 * at)) as u16).into(),
            Self::Bits(bits) => (u64::from(word) >> (bits * at) & ((1 << bits) - 1)) as f64,
        }
    }
}

/// Elements of a result, and what they have to be.
#[derive(Clone, Copy)]
pub(super) struct Elements<'e> {
    /// The part of the result.
    pub(super) part: &'e str,
    pub(super) format: Format,
    /// What the kernel left; there may be more than is compared.
    pub(super) words: &'e [u32],
    /// The twin's values.
    pub(super) want: &'e [f64],
    /// How far each may be off. One without bounds may be anything.
    pub(super) tolerance: &'e [f64],
    /// Why so far.
    pub(super) why: &'e str,
}

impl Elements<'_> {
    /// Words that are compared.
    pub(super) fn words_used(&self) -> usize {
        self.want.len().div_ceil(self.format.of_word())
    }

    // Whether a word stands as it was before the kernel. Whoever wants natural numbers may want that.
    fn is_poison(&self, index: usize) -> bool {
        let is_float = matches!(self.format, Format::F32 | Format::F16);
        is_float && self.words[index / self.format.of_word()] == POISON
    }

    // How often its tolerance an element is off. A value that is not finite must be met by one that is not finite.
    fn off(&self, index: usize) -> f64 {
        let (got, want) = (self.format.value(self.words, index), self.want[index]);
        let tolerance = self.tolerance[index];
        match (self.is_poison(index), want.is_finite(), got.is_finite()) {
            _ if tolerance == f64::INFINITY => 0.0,
            (false, true, true) if (got - want).abs() <= tolerance => 0.0,
            (false, false, false) => 0.0,
            (false, true, true) => (got - want).abs() / tolerance,
            _ => f64::INFINITY,
        }
    }

    /// Compares them, and notes the one that is farthest off.
    pub(super) fn compare(&self) -> Verdict {
        let Self { part, format, words, want, tolerance, why } = *self;
        if words.len() < self.words_used() {
            return Err(format!("{part}: {} values instead of {}", words.len(), want.len()));
        }
        if scripted(|script| script.check(self)).is_some() {
            return Ok(());
        }
        let wrong: Vec<(usize, f64)> =
            (0..want.len()).map(|i| (i, self.off(i))).filter(|&(_, off)| off != 0.0).collect();
        let Some(&first) = wrong.first() else { return Ok(()) };
        let (i, _) =
            wrong.iter().fold(first, |worst, &one| if one.1 > worst.1 { one } else { worst });
        let (got, want, tolerance) = (format.value(words, i), want[i], tolerance[i]);
        let worst = Worst {
            part: part.to_owned(),
            index: i,
            expected: finite(want),
            actual: finite(got),
            tolerance: finite(tolerance),
            derivation: why.to_owned(),
            wrong: wrong.len(),
            of: self.want.len(),
        };
        note(|record| record.worst = Some(worst));
        let others = match wrong.len() {
            1 => String::new(),
            many => format!("; {many} of {} are wrong", self.want.len()),
        };
        Err(if self.is_poison(i) || got == f64::from(POISON) {
            format!("{part}[{i}] was not written{others}")
        } else if tolerance == 0.0 {
            format!("{part}[{i}] is {got}, not {want}{others}")
        } else {
            format!("{part}[{i}] is {got:e}, not {want:e} within {tolerance:e}{others}")
        })
    }
}

/// Compares floats with a twin's values, each within its own tolerance, of which is said why it is so large.
pub(super) fn compare(
    part: &str,
    words: &[u32],
    want: &[f64],
    why: &str,
    tolerance: impl Fn(usize) -> f64,
) -> Verdict {
    let tolerance: Vec<f64> = (0..want.len()).map(tolerance).collect();
    Elements { part, format: Format::F32, words, want, tolerance: &tolerance, why }.compare()
}

/// Compares words that have to be the same.
pub(super) fn same_words(part: &str, words: &[u32], want: &[u32]) -> Verdict {
    let want: Vec<f64> = want.iter().map(|&word| word.into()).collect();
    let (tolerance, why) = (&*vec![0.0; want.len()], "Integers are exact.");
    Elements { part, format: Format::U32, words, want: &want, tolerance, why }.compare()
}

/// The last place of a number in f16.
fn last_place(value: f16) -> f64 {
    let next = f16::from_bits(value.to_bits() & 0x7fff).to_f64();
    (f16::from_bits((value.to_bits() & 0x7fff) + 1).to_f64() - next).abs()
}

/// Why a number in f16 may be off.
pub(super) const HALF: &str = "A stored number is off by what the number is, and by its rounding to f16: to nearest in practice, but WGSL allows either neighbour, \
     and zero for a subnormal number.";

/// Why a norm may be off by so much.
pub(super) const NORM: &str = "The mean of n squares is off by at most (n + 8) 2^-24 of itself, its root by half of that; inverseSqrt is within 2 ulp and two \
     products round.";

/// Why a logit under a soft-cap may be off by so much more.
pub(super) const CAPPED: &str = "With a soft-cap c, which lessens errors of logits: c (1 - 2 / (exp(2 x) + 1)) is off by 12 c 2^-23 besides: by 3 of these for exp's \
     3 + 2 |2 x| ulp and its argument's rounding, which count half at x = 0 and vanish beside it, by 5 for the quotient's 2.5 ulp, and sums and \
     products round.";

/// How far a soft-cap's own rounding may put a logit.
pub(super) fn cap_error(softcap: Option<f32>) -> f64 {
    softcap.map_or(0.0, |cap| f64::from(cap) * 12.0 * 2f64.powi(-23))
}

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

/// A kernel for subgroups of 32 lanes, for those of 8 that rasterisers have: these constants say how many lanes there are.
pub(super) fn in_eights(
    gpu: &Gpu,
    mut spec: ShaderSpec,
    constants: &[(&str, u32)],
) -> Result<ShaderSpec> {
    if gpu.tier.subgroup_size() != Some(8) {
        let limit = "cases of kernels for larger ones, made smaller, need subgroups of 8 lanes";
        return Err(lacking(gpu, gpu.tier.name.into(), limit));
    }
    for &(name, value) in constants {
        let constant = spec.constants.iter_mut().find(|(known, _)| *known == name);
        constant.expect("a constant of the kernel").1 = value.into();
    }
    Ok(spec)
}

/// The tier of subgroups of 32 lanes.
pub(super) fn of_32() -> &'static Tier {
    Tier::named("subgroups-of-32").expect("a tier")
}

/// Whether words that no lane should write are still poison.
pub(super) fn untouched(what: &str, words: &[u32]) -> Verdict {
    same_words(what, words, &vec![POISON; words.len()]).map_err(|_| {
        let at = words.iter().position(|&word| word != POISON).unwrap_or_default();
        format!("{what}[{at}] was written, but nothing belongs there")
    })
}

/// What a word of two halves has to hold, and how far each may be off; none where nothing must be written.
pub(super) type Halves = Option<[(f64, f64); 2]>;

/// A number as the cache stores it, which is within so much of this one: what f16 cannot hold as the largest that it can, and rounded
/// to either neighbour. A subnormal number may become zero, or be off by two steps: SwiftShader makes such.
pub(super) fn stored(value: f64, within: f64) -> (f64, f64) {
    let most = f64::from(f16::MAX);
    let value = value.clamp(-most, most);
    (value, within + half_rounding(value))
}

/// The same of a number that the kernel left elsewhere too: by that one, where it ran; where it is only written down by its twin's,
/// which is within so much.
pub(super) fn kept(left: u32, twin: f64, within: f64) -> (f64, f64) {
    if is_run() { stored(f32::from_bits(left).into(), 0.0) } else { stored(twin, within) }
}

/// How far from a number its neighbours in f16 are.
pub(super) fn half_rounding(value: f64) -> f64 {
    match value.abs() < f16::MIN_POSITIVE.to_f64() {
        true => value.abs().max(2f64.powi(-23)),
        // Of what f16 cannot hold there is no next one.
        false => last_place(f16::from_f64(value)).min(32.0),
    }
}

/// The words of rows that are stored as they are.
pub(super) fn stored_row(values: &[f32]) -> impl Iterator<Item = Halves> + '_ {
    let pair = |pair: &[f32]| Some([stored(pair[0].into(), 0.0), stored(pair[1].into(), 0.0)]);
    values.chunks_exact(2).map(pair)
}

/// Compares words of halves.
pub(super) fn compare_halves(what: &str, got: &[u32], want: &[Halves], why: &str) -> Verdict {
    let all = || got.iter().zip(want);
    let beside: Vec<u32> =
        all().filter(|(_, want)| want.is_none()).map(|(&word, _)| word).collect();
    let words: Vec<u32> = all().filter(|(_, want)| want.is_some()).map(|(&word, _)| word).collect();
    let (want, tolerance): (Vec<f64>, Vec<f64>) = want.iter().flatten().flatten().copied().unzip();
    untouched(&format!("{what} beside what is stored"), &beside)?;
    let (part, words) = (&*format!("{what} halves"), &*words);
    Elements { part, format: Format::F16, words, want: &want, tolerance: &tolerance, why }.compare()
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
