//! Rotary position embeddings (arXiv 2104.09864): the angle of each pair of dimensions at each position.

use serde::Serialize;
use std::f64::consts::TAU;

/// How positions turn queries and keys.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rope {
    /// Base of the frequencies: pair i of d dimensions turns by base^(-2i/d) a position.
    pub base: f32,
    /// Dimensions that turn.
    pub dims: u32,
    /// Whether pairs are (2i, 2i+1) rather than (i, i + dims / 2).
    pub interleaved: bool,
    /// What stretches the frequencies to contexts longer than the first training's.
    pub scaling: RopeScaling,
}

/// What stretches the frequencies.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RopeScaling {
    /// Nothing.
    None,
    /// Positions are divided by this.
    Linear(f32),
    /// Each frequency is divided by its own number, as a GGUF file of a Llama 3 model lists them.
    Divisors(Vec<f32>),
    /// Llama 3's: low frequencies are divided by `factor`, high ones kept, those between blended.
    Llama3 {
        /// The divisor.
        factor: f32,
        /// Wavelengths above `original / low` are low frequencies.
        low: f32,
        /// Wavelengths below `original / high` are high frequencies.
        high: f32,
        /// The first training's context.
        original: u32,
    },
    /// YaRN (arXiv 2309.00071).
    Yarn {
        /// The divisor of low frequencies.
        factor: f32,
        /// The first training's context.
        original: u32,
        /// Turns within `original` above which a frequency is kept.
        beta_fast: f32,
        /// Turns within `original` below which it is divided by `factor`.
        beta_slow: f32,
        /// What queries and keys are multiplied by; none for YaRN's 0.1 ln(factor) + 1.
        magnitude: Option<f32>,
    },
}

/// A position's turns, ready to be worked out: what [`Rope`] describes.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotations {
    frequencies: Vec<f64>,
    magnitude: f64,
}

impl Rope {
    /// Without scaling.
    pub fn new(base: f32, dims: u32, interleaved: bool) -> Self {
        Self { base, dims, interleaved, scaling: RopeScaling::None }
    }

    /// The frequencies, worked out once.
    pub fn rotations(&self) -> Rotations {
        let dims = f64::from(self.dims);
        let base = f64::from(self.base);
        let frequencies = (0..self.dims / 2).map(|i| {
            let plain = base.powf(-2.0 * f64::from(i) / dims);
            match &self.scaling {
                RopeScaling::None => plain,
                RopeScaling::Linear(factor) => plain / f64::from(*factor),
                RopeScaling::Divisors(list) => {
                    plain / list.get(i as usize).map_or(1.0, |&v| f64::from(v))
                }
                RopeScaling::Llama3 { factor, low, high, original } => {
                    let turns = f64::from(*original) * plain / TAU;
                    let (low, high) = (f64::from(*low), f64::from(*high));
                    // 0 below `low` turns, 1 above `high`.
                    let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    kept * plain + (1.0 - kept) * plain / f64::from(*factor)
                }
                RopeScaling::Yarn { factor, original, beta_fast, beta_slow, .. } => {
                    // The pair that makes so many turns within the original context.
                    let pair = |turns: f32| {
                        dims * (f64::from(*original) / (f64::from(turns) * TAU)).ln()
                            / (2.0 * base.ln())
                    };
                    let first = pair(*beta_fast).floor().max(0.0);
                    let mut last = pair(*beta_slow).ceil().min(dims - 1.0);
                    if first == last {
                        last += 0.001;
                    }
                    let divided = ((f64::from(i) - first) / (last - first)).clamp(0.0, 1.0);
                    divided * plain / f64::from(*factor) + (1.0 - divided) * plain
                }
            }
        });
        let magnitude = match self.scaling {
            RopeScaling::Yarn { factor, magnitude, .. } => {
                magnitude.map_or_else(|| 0.1 * f64::from(factor.max(1.0)).ln() + 1.0, f64::from)
            }
            _ => 1.0,
        };
        Rotations { frequencies: frequencies.collect(), magnitude }
    }
}

impl Rotations {
    /// Whether every pair turns by a number: scaling with extreme parameters divides by 0.
    pub fn are_finite(&self) -> bool {
        self.magnitude.is_finite() && self.frequencies.iter().all(|frequency| frequency.is_finite())
    }

    /// Appends cosine and sine of each pair's angle at a position, times the scaling's magnitude. The angles are worked out
    /// in f64: in f32 they lose what a long context needs.
    pub fn append(&self, position: u32, out: &mut Vec<[f32; 2]>) {
        out.extend(self.frequencies.iter().map(|frequency| {
            let (sine, cosine) = (f64::from(position) * frequency).sin_cos();
            [(cosine * self.magnitude) as f32, (sine * self.magnitude) as f32]
        }));
    }
}
