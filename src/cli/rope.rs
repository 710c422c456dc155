//! The options that stretch a model's context.

use asynctls::model::{ModelConfig, RopeChange, RopeKind};
use asynctls::{Error, Result};
use clap::{Args, ValueEnum};

// Each option's own: a heading of the struct would be that of all options after it too.
const HEADING: &str = "Longer contexts";

/// Another rotary scaling than the file's.
#[derive(Args, Debug)]
pub struct RopeOptions {
    /// Stretch the rotary embedding, whatever the file says: yarn, linear or none; for Qwen3, which knows 40,960 tokens:
    /// --rope-scaling yarn --rope-scale 4 --rope-original-context 32768
    #[arg(long, value_enum, value_name = "KIND", help_heading = HEADING)]
    rope_scaling: Option<Kind>,
    /// How many times longer the context becomes, such as 4
    #[arg(long, value_name = "F", requires = "rope_scaling", allow_negative_numbers = true,
        help_heading = HEADING)]
    rope_scale: Option<f32>,
    /// Tokens of context that --rope-scale multiplies [default: what the file says]
    #[arg(long, value_name = "N", requires = "rope_scaling", allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(1..=1 << 20), help_heading = HEADING)]
    rope_original_context: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Yarn,
    Linear,
    None,
}

/// The most times that a context can be stretched.
const MOST: f32 = 1024.0;

impl RopeOptions {
    /// The scaling that replaces the file's.
    pub fn change(&self) -> Result<Option<RopeChange>> {
        let kind = match self.rope_scaling {
            None => return Ok(None),
            Some(Kind::None) => {
                let scale = self.rope_scale.map(|scale| ("--rope-scale", scale.to_string()));
                let context = self.rope_original_context;
                let context = context.map(|n| ("--rope-original-context", n.to_string()));
                if let Some((what, value)) = scale.or(context) {
                    return Err(Error::argument(what, value, "--rope-scaling none takes none"));
                }
                return Ok(Some(RopeChange { kind: RopeKind::None, factor: 1.0, original: None }));
            }
            Some(Kind::Yarn) => RopeKind::Yarn,
            Some(Kind::Linear) => RopeKind::Linear,
        };
        let Some(factor) = self.rope_scale else {
            let limit =
                "--rope-scale is missing: --rope-scale 4 makes a context four times as long";
            return Err(Error::argument("--rope-scaling", kind, limit));
        };
        if !(1.0..=MOST).contains(&factor) {
            let limit = format!("it must be a number from 1 to {MOST}");
            return Err(Error::argument("--rope-scale", factor, limit));
        }
        Ok(Some(RopeChange { kind, factor, original: self.rope_original_context }))
    }
}

/// The limit that a length of more tokens than the model's context breaks, and how the context gets longer.
pub fn beyond(config: &ModelConfig, length: u64) -> String {
    let limit = format!("the model's context is {} tokens", config.context_length);
    let original = u64::from(config.rope_original());
    let scale = length.div_ceil(original);
    if config.rope_problem().is_some() || scale > MOST as u64 {
        return limit;
    }
    format!("{limit}: --rope-scaling yarn --rope-scale {scale} makes it {}", scale * original)
}
