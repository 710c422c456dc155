//! The next token from a model's logits: the likeliest, or a random draw.

#[cfg(feature = "text")]
mod logprobs;
mod penalties;
#[cfg(feature = "text")]
mod suggested;

#[cfg(feature = "text")]
pub use logprobs::{Logprob, Logprobs};
#[cfg(feature = "text")]
pub use suggested::SuggestedSampling;

use std::cmp::Ordering;
use std::hash::{BuildHasher, Hasher};

use rand_pcg::Pcg64;
use rand_pcg::rand_core::Rng;

use crate::model::logits;
use crate::{Error, Result};

use penalties::Penalties;

/// The sequence of the generator; which one is arbitrary, but draws are reproducible only if it
/// never changes.
const STREAM: u128 = 0x0a02_bdbf_7bb3_c0a7_ac28_fa16_a64a_bf96;

/// How the next token is chosen. What applies, in this order, which is that of transformers:
///
/// 1. the repetition penalty (CTRL, arXiv 1909.05858, as transformers has it): the logit of a token
///    that occurs in the prompt or the answer is divided by it if positive, else multiplied;
/// 2. the frequency and the presence penalty (as OpenAI's reference defines them, and vLLM has
///    them): a token's logit loses the one for each time it occurs in the answer, and the other if
///    it occurs there at all. The prompt does not count, so that documents can be quoted;
/// 3. the temperature, by which logits are divided;
/// 4. `top_k`, then `top_p` (the nucleus, arXiv 1904.09751) of what that leaves, then `min_p` (arXiv
///    2407.01082): only tokens that have at least this share of the likeliest token's probability.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplerSettings {
    /// 0 takes the likeliest token; 1 draws from the model's own distribution.
    pub temperature: f32,
    /// Draw among this many of the likeliest tokens; 0 sets no limit.
    pub top_k: usize,
    /// Draw among the likeliest tokens that together have at least this probability; 1 sets no
    /// limit.
    pub top_p: f32,
    /// Draw among the tokens whose probability is at least this share of the likeliest one's; 0
    /// sets no limit.
    pub min_p: f32,
    /// The divisor of the logits of tokens that occurred; 1 changes nothing.
    pub repetition_penalty: f32,
    /// The latest tokens that the repetition penalty looks at; `None`: all.
    pub repetition_window: Option<usize>,
    /// Taken off the logits of tokens that the answer has; 0 changes nothing.
    pub presence_penalty: f32,
    /// Taken off the logits of tokens for each time that the answer has them; 0 changes nothing.
    pub frequency_penalty: f32,
    /// The same seed gives the same draws on every platform.
    pub seed: u64,
}

impl Default for SamplerSettings {
    /// The likeliest token.
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            repetition_window: None,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: 0,
        }
    }
}

impl SamplerSettings {
    /// Whether the values make sense.
    pub fn validate(&self) -> Result<()> {
        let check = |what: &str, value: f32, range: Range| {
            if range.holds(value.into()) {
                Ok(())
            } else {
                Err(Error::argument(what, value, format!("it must be {}", range.name())))
            }
        };
        check("the temperature", self.temperature, Range::Temperature)?;
        check("top-p", self.top_p, Range::TopP)?;
        check("min-p", self.min_p, Range::MinP)?;
        check("the repetition penalty", self.repetition_penalty, Range::Repetition)?;
        check("the presence penalty", self.presence_penalty, Range::Penalty)?;
        check("the frequency penalty", self.frequency_penalty, Range::Penalty)
    }

    /// Whether tokens are drawn, rather than the likeliest taken.
    pub fn draws(&self) -> bool {
        self.temperature > 0.0
    }

    /// Whether what was said before changes what is likely.
    pub fn penalises(&self) -> bool {
        (self.repetition_penalty != 1.0 && self.repetition_window != Some(0))
            || self.presence_penalty != 0.0
            || self.frequency_penalty != 0.0
    }
}

/// The values that a setting may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// A finite number of at least 0.
    Temperature,
    /// Above 0 and at most 1.
    TopP,
    /// At least 0 and at most 1.
    MinP,
    /// A finite number above 0.
    Repetition,
    /// Any finite number.
    Penalty,
}

impl Range {
    /// Whether this value is allowed.
    pub fn holds(self, value: f64) -> bool {
        match self {
            Self::Temperature => value.is_finite() && value >= 0.0,
            Self::TopP => value > 0.0 && value <= 1.0,
            Self::MinP => (0.0..=1.0).contains(&value),
            Self::Repetition => value.is_finite() && value > 0.0,
            Self::Penalty => value.is_finite(),
        }
    }

    /// The allowed values in words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Temperature => "a finite number of at least 0",
            Self::TopP => "a number above 0 and at most 1",
            Self::MinP => "a number of at least 0 and at most 1",
            Self::Repetition => "a finite number above 0",
            Self::Penalty => "a finite number",
        }
    }
}

/// A seed that nobody chose, short enough to be typed again.
pub fn random_seed() -> u64 {
    // The standard library keys its hash maps from the system's randomness.
    std::hash::RandomState::new().build_hasher().finish() >> 32
}

/// The tokens before the one that is chosen.
#[derive(Debug, Clone, Copy, Default)]
pub struct Past<'a> {
    /// All tokens.
    pub tokens: &'a [u32],
    /// How many of them are the prompt; the answer follows.
    pub prompt: usize,
}

/// Chooses token after token.
#[derive(Debug)]
pub struct Sampler {
    settings: SamplerSettings,
    random: Pcg64,
    draws: u64,
    penalties: Penalties,
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
        let (penalties, candidates) = (Penalties::default(), Vec::new());
        Ok(Self { settings, random, draws, penalties, candidates })
    }

    /// How tokens are chosen.
    pub fn settings(&self) -> SamplerSettings {
        self.settings
    }

    /// Draws so far: with the settings all that a sampler goes on from.
    pub fn draws(&self) -> u64 {
        self.draws
    }

    /// The next token. A logit of minus infinity is never chosen.
    ///
    /// # Errors
    /// [`Error::Model`], which names the first logit that is not a number.
    pub fn sample(&mut self, logits: &[f32], past: Past<'_>) -> Result<u32> {
        logits::check(logits)?;
        if !self.settings.penalises() {
            return self.choose(logits);
        }
        let mut penalties = std::mem::take(&mut self.penalties);
        let chosen = self.choose(penalties.apply(&self.settings, logits, past));
        self.penalties = penalties;
        chosen
    }

    /// The same of the tokens that are allowed, before all else.
    ///
    /// # Errors
    /// As [`Sampler::sample`].
    #[cfg(feature = "text")]
    pub(crate) fn sample_among(
        &mut self,
        logits: &[f32],
        past: Past<'_>,
        allowed: impl Fn(u32) -> bool,
    ) -> Result<u32> {
        logits::check(logits)?;
        let keep = |(id, logit): (u32, &f32)| if allowed(id) { *logit } else { f32::NEG_INFINITY };
        let among: Vec<f32> = (0u32..).zip(logits).map(keep).collect();
        self.sample(&among, past)
    }

    fn choose(&mut self, logits: &[f32]) -> Result<u32> {
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
        // The likeliest token has a weight of 1.
        let least = f64::from(self.settings.min_p);
        if least > 0.0 {
            self.candidates.retain(|candidate| candidate.weight >= least);
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
        .ok_or_else(logits::unusable)
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
