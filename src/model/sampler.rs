//! The next token from a model's logits: the likeliest, or a random draw.

use std::cmp::Ordering;

use rand_pcg::Pcg64;
use rand_pcg::rand_core::Rng;

use crate::{Error, Result};

/// The sequence of the generator; which one is arbitrary, but draws are reproducible only if it
/// never changes.
const STREAM: u128 = 0x0a02_bdbf_7bb3_c0a7_ac28_fa16_a64a_bf96;

/// How the next token is chosen. Temperature applies first, then `top_k`, then `top_p`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplerSettings {
    /// 0 takes the likeliest token; 1 draws from the model's own distribution.
    pub temperature: f32,
    /// Draw among this many of the likeliest tokens; 0 sets no limit.
    pub top_k: usize,
    /// Draw among the likeliest tokens that together have at least this probability; 1 sets no
    /// limit.
    pub top_p: f32,
    /// The same seed gives the same draws on every platform.
    pub seed: u64,
}

impl Default for SamplerSettings {
    /// The likeliest token.
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0 }
    }
}

impl SamplerSettings {
    /// Whether the values make sense.
    pub fn validate(&self) -> Result<()> {
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            let limit = "it must be a finite number of at least 0";
            return Err(Error::argument("--temperature", self.temperature, limit));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(Error::argument("--top-p", self.top_p, "it must be above 0 and at most 1"));
        }
        Ok(())
    }
}

/// Chooses token after token.
#[derive(Debug)]
pub struct Sampler {
    settings: SamplerSettings,
    random: Pcg64,
    draws: u64,
    /// Kept between calls for its memory only.
    candidates: Vec<Candidate>,
}

/// A token that may be drawn, with a weight proportional to its probability.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    id: u32,
    logit: f32,
    weight: f64,
}

impl Candidate {
    /// The likelier first, of equals the one with the lower id: a total order, so that whatever
    /// is cut off or summed in this order never depends on how it was sorted.
    fn order(a: &Self, b: &Self) -> Ordering {
        b.logit.partial_cmp(&a.logit).unwrap_or(Ordering::Equal).then(a.id.cmp(&b.id))
    }
}

impl Sampler {
    /// A sampler at the beginning of its seed's draws.
    pub fn new(settings: SamplerSettings) -> Result<Self> {
        Self::after(settings, 0)
    }

    /// A sampler that goes on after so many of its seed's draws.
    pub fn after(settings: SamplerSettings, draws: u64) -> Result<Self> {
        settings.validate()?;
        let mut random = Pcg64::new(settings.seed.into(), STREAM);
        random.advance(draws.into());
        Ok(Self { settings, random, draws, candidates: Vec::new() })
    }

    /// How tokens are chosen.
    pub fn settings(&self) -> SamplerSettings {
        self.settings
    }

    /// Draws so far: with the settings all that a sampler goes on from.
    pub fn draws(&self) -> u64 {
        self.draws
    }

    /// The next token. A logit that is not a number or minus infinity is never chosen.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32> {
        let best = likeliest(logits)?;
        if self.settings.temperature == 0.0 {
            return Ok(best.id);
        }
        self.collect(logits, best.logit);
        if self.settings.top_k > 0 && self.settings.top_k < self.candidates.len() {
            sort_first(&mut self.candidates, self.settings.top_k);
            self.candidates.truncate(self.settings.top_k);
        }
        if self.settings.top_p < 1.0 {
            keep_nucleus(&mut self.candidates, self.settings.top_p.into());
        }
        let target = self.uniform() * total(&self.candidates);
        // Rounding may leave the target at the total itself: the last candidate then.
        let last = self.candidates.last().map_or(best.id, |candidate| candidate.id);
        Ok(reaching(&self.candidates, |sum| sum > target)
            .map_or(last, |place| self.candidates[place].id))
    }

    /// Makes a candidate of every token that has a probability, in the order of ids.
    fn collect(&mut self, logits: &[f32], best: f32) {
        let temperature = f64::from(self.settings.temperature);
        // Relative to the best, so that nothing overflows; the best itself may be infinite.
        let weight = |logit: f32| {
            if logit == best {
                1.0
            } else {
                ((f64::from(logit) - f64::from(best)) / temperature).exp()
            }
        };
        self.candidates.clear();
        self.candidates.extend(usable(logits).map(|(id, logit)| Candidate {
            id,
            logit,
            weight: weight(logit),
        }));
    }

    /// A number from 0 to below 1, with the 53 bits that an `f64` holds.
    fn uniform(&mut self) -> f64 {
        self.draws += 1;
        (self.random.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The tokens that may be chosen at all.
fn usable(logits: &[f32]) -> impl Iterator<Item = (u32, f32)> {
    (0u32..).zip(logits.iter().copied()).filter(|&(_, logit)| logit > f32::NEG_INFINITY)
}

/// The token with the highest logit, of equals the one with the lowest id.
fn likeliest(logits: &[f32]) -> Result<Candidate> {
    usable(logits)
        .map(|(id, logit)| Candidate { id, logit, weight: 1.0 })
        .min_by(Candidate::order)
        .ok_or_else(|| {
            Error::Model(format!(
                "no token can be chosen: none of the {} logits is a number above minus infinity",
                logits.len()
            ))
        })
}

/// Moves the first `count` in order to the front, sorted, without sorting the rest.
fn sort_first(candidates: &mut [Candidate], count: usize) {
    if count > 0 && count < candidates.len() {
        candidates.select_nth_unstable_by(count - 1, Candidate::order);
    }
    let count = count.min(candidates.len());
    candidates[..count].sort_unstable_by(Candidate::order);
}

/// Keeps the likeliest candidates that together have at least `share` of the probability.
fn keep_nucleus(candidates: &mut Vec<Candidate>, share: f64) {
    let target = share * total(candidates);
    // The nucleus is mostly a few hundred tokens; only a flat distribution costs a full sort.
    let mut sorted = 256;
    while sorted < candidates.len() {
        sort_first(candidates, sorted);
        if let Some(place) = reaching(&candidates[..sorted], |sum| sum >= target) {
            candidates.truncate(place + 1);
            return;
        }
        sorted *= 4;
    }
    sort_first(candidates, sorted);
    if let Some(place) = reaching(candidates, |sum| sum >= target) {
        candidates.truncate(place + 1);
    }
}

fn total(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|candidate| candidate.weight).sum()
}

/// The place of the first candidate at which the sum of the weights so far satisfies `enough`.
fn reaching(candidates: &[Candidate], enough: impl Fn(f64) -> bool) -> Option<usize> {
    let mut sum = 0.0;
    candidates.iter().position(|candidate| {
        sum += candidate.weight;
        enough(sum)
    })
}

#[cfg(test)]
mod tests;
