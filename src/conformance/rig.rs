//! Running one kernel on data: outputs are poisoned first, so that what a kernel should have written and did not is seen.

use super::Verdict;
use crate::Result;
use crate::contract::{Bindings, Words};
use crate::gpu::{Binding, Gpu, ShaderSpec};
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
    let items = data.clone().named();
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
    let mut bound = buffers.iter();
    let bindings = data.clone().map(|_, _| Binding::from(bound.next().expect("a buffer each")));
    let op = gpu.op(spec, bindings).await?;
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        op.record(&mut pass, grid.0, grid.1, grid.2);
    }
    gpu.submit(encoder)?;
    let mut results = Vec::new();
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
    let mut results = results.into_iter();
    Ok(data.map(|_, _| results.next().expect("a result each")))
}

/// Compares floats with a twin's values, each within its own tolerance. A value that is not finite must be met by one that
/// is not finite.
pub(super) fn compare(
    what: &str,
    got: &[u32],
    want: &[f64],
    tolerance: impl Fn(usize) -> f64,
) -> Verdict {
    if got.len() < want.len() {
        return Err(format!("{what}: {} values instead of {}", got.len(), want.len()));
    }
    for (i, (&bits, &want)) in got.iter().zip(want).enumerate() {
        let value = f64::from(f32::from_bits(bits));
        if bits == POISON {
            return Err(format!("{what}[{i}] was not written"));
        }
        let right = if want.is_finite() {
            (value - want).abs() <= tolerance(i)
        } else {
            !value.is_finite()
        };
        if !right {
            return Err(format!(
                "{what}[{i}] is {value:e}, not {want:e} within {:e}",
                tolerance(i)
            ));
        }
    }
    Ok(())
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
        // Rounding to f16 is to nearest in practice, but WGSL allows either neighbour.
        let near = |shift: u32| (got >> shift & 0xffff).abs_diff(want >> shift & 0xffff) <= 1;
        if !near(0) || !near(16) {
            return Err(format!("{what} word {i} is {got:#x}, not {want:#x}"));
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
