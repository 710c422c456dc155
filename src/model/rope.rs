//! Rotary position embeddings (arXiv 2104.09864): the angle of each pair of dimensions at each position.

use serde::Serialize;
use std::f64::consts::TAU;
use std::fmt;

/// How positions turn queries and keys.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rope {
    /// Base of the frequencies: pair i of d dimensions turns by base^(-2i/d) a position.
    pub base: f32,
    /// Dimensions that turn.
    pub dims: u32,
    /// Whether pairs are (2i, 2i+1) rather than (i, i + dims / 2).
    pub interleaved: bool,
    /// The scaling of the frequencies, for contexts longer than the first training's.
    pub scaling: RopeScaling,
    /// A factor of queries and keys besides the scaling's own.
    #[serde(skip_serializing_if = "is_one")]
    pub magnitude: f32,
}

// A factor of one is not written: descriptions of old session files lack it.
fn is_one(magnitude: &f32) -> bool {
    *magnitude == 1.0
}

fn is_true(flag: &bool) -> bool {
    *flag
}

/// How the frequencies are scaled.
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
        /// The factor of queries and keys; none for YaRN's 0.1 ln(factor) + 1.
        magnitude: Option<f32>,
        /// Whether the bounds between kept and divided frequencies are whole pairs.
        #[serde(skip_serializing_if = "is_true")]
        whole: bool,
    },
}

/// A scaling to run with in the place of the file's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeChange {
    /// Which one.
    pub kind: RopeKind,
    /// How many times longer the context becomes: at least 1, and exactly that for [`RopeKind::None`].
    pub factor: f32,
    /// The context that `factor` multiplies; none for the file's: YaRN's original one, else that without scaling.
    pub original: Option<u32>,
}

/// The scalings that any model can run with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeKind {
    /// Nothing is stretched.
    None,
    /// Positions are divided by the factor.
    Linear,
    /// YaRN, with its usual parameters.
    Yarn,
}

impl fmt::Display for RopeChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, factor, original } = self;
        match (kind, original) {
            (RopeKind::None, _) => write!(f, "RoPE scaling {kind}"),
            (_, None) => write!(f, "RoPE scaling {kind} {factor}"),
            (_, Some(original)) => write!(f, "RoPE scaling {kind} {factor} over {original} tokens"),
        }
    }
}

impl fmt::Display for RopeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Linear => "linear",
            Self::Yarn => "yarn",
        })
    }
}

impl RopeScaling {
    /// YaRN's usual turns above which frequencies are kept.
    pub const BETA_FAST: f32 = 32.0;
    /// YaRN's usual turns below which they are divided.
    pub const BETA_SLOW: f32 = 1.0;

    /// YaRN with its usual parameters.
    pub fn yarn(factor: f32, original: u32) -> Self {
        Self::Yarn {
            factor,
            original,
            beta_fast: Self::BETA_FAST,
            beta_slow: Self::BETA_SLOW,
            magnitude: None,
            whole: true,
        }
    }

    /// How many times longer contexts become.
    pub fn factor(&self) -> f32 {
        match self {
            Self::None | Self::Divisors(_) => 1.0,
            Self::Linear(factor) | Self::Llama3 { factor, .. } | Self::Yarn { factor, .. } => {
                *factor
            }
        }
    }

    /// The context that one of `original` tokens becomes; Llama 3's files tell the longer one.
    pub fn context(&self, original: u32) -> u32 {
        match self {
            Self::None | Self::Divisors(_) | Self::Llama3 { .. } => original,
            Self::Linear(factor) | Self::Yarn { factor, .. } => {
                // Rounded: a factor such as 3.3 is a little less in f32.
                (f64::from(original) * f64::from(*factor)).round() as u32
            }
        }
    }

    /// The factor of queries and keys.
    pub fn magnitude(&self) -> f64 {
        match self {
            Self::Yarn { factor, magnitude, .. } => {
                magnitude.map_or_else(|| Self::yarn_magnitude(*factor, 1.0), f64::from)
            }
            _ => 1.0,
        }
    }

    /// YaRN's magnitude, where its logarithm counts `share`.
    pub fn yarn_magnitude(factor: f32, share: f64) -> f64 {
        0.1 * share * f64::from(factor.max(1.0)).ln() + 1.0
    }
}

impl fmt::Display for RopeScaling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Linear(factor) => write!(f, "linear, factor {factor}"),
            Self::Divisors(list) => write!(f, "{} divisors of frequencies", list.len()),
            Self::Llama3 { factor, original, .. } => {
                write!(f, "llama3, factor {factor} over {original} tokens")
            }
            Self::Yarn { factor, original, .. } => {
                write!(f, "yarn, factor {factor} over {original} tokens")
            }
        }
    }
}

/// A position's turns, ready to be worked out: what [`Rope`] describes.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotations {
    frequencies: Vec<f64>,
    magnitude: f64,
}

impl Rope {
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
                RopeScaling::Yarn { factor, original, beta_fast, beta_slow, whole, .. } => {
                    // The pair that makes so many turns within the original context.
                    let pair = |turns: f32| {
                        dims * (f64::from(*original) / (f64::from(turns) * TAU)).ln()
                            / (2.0 * base.ln())
                    };
                    let (mut first, mut last) = (pair(*beta_fast), pair(*beta_slow));
                    if *whole {
                        (first, last) = (first.floor(), last.ceil());
                    }
                    (first, last) = (first.max(0.0), last.min(dims - 1.0));
                    if first == last {
                        last += 0.001;
                    }
                    let divided = ((f64::from(i) - first) / (last - first)).clamp(0.0, 1.0);
                    divided * plain / f64::from(*factor) + (1.0 - divided) * plain
                }
            }
        });
        let magnitude = self.scaling.magnitude() * f64::from(self.magnitude);
        Rotations { frequencies: frequencies.collect(), magnitude }
    }
}

impl Rotations {
    /// Whether every pair turns by a number: scaling with extreme parameters divides by 0.
    pub fn are_finite(&self) -> bool {
        self.magnitude.is_finite() && self.frequencies.iter().all(|frequency| frequency.is_finite())
    }

    /// The angle by which each pair turns from a position to the next.
    pub fn frequencies(&self) -> &[f64] {
        &self.frequencies
    }

    /// The factor of queries and keys.
    pub fn magnitude(&self) -> f64 {
        self.magnitude
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
