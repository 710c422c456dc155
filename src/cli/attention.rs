//! The options that say what decode steps attend.

use asynctls::Result;
use asynctls::attention::{Attention, Blocks, Budget};
use clap::{Args, ValueEnum};

/// What decode steps attend.
#[derive(Args, Debug)]
#[command(next_help_heading = "Attention")]
pub struct AttentionOptions {
    /// What decode steps attend; prompts are always attended densely
    #[arg(long, value_enum, default_value_t = Kind::TwoLevel)]
    attention: Kind,
    /// Blocks of 64 tokens that level 1 keeps: a number, or a share of them such as 25% [default: 16, or 128 for models
    /// with a context above 16k]
    #[arg(long, value_name = "N|P%", allow_hyphen_values = true)]
    blocks: Option<String>,
    /// Tokens that level 2 keeps [default: 256, or 1024 for models with a context above 16k]
    #[arg(long, value_name = "N", allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(1..))]
    tokens: Option<u32>,
    /// At this many tokens of context or fewer, attend all of them [default: 1024, or 8192 for models with a context
    /// above 16k]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    dense_below: Option<u32>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    /// Every token
    Dense,
    /// The first block, the latest ones, and the tokens that two levels of selection choose
    TwoLevel,
}

impl AttentionOptions {
    /// Checks what can be checked without a model.
    pub fn check(&self) -> Result<()> {
        self.of(1).map(drop)
    }

    /// What they mean for a model with this context length.
    pub fn of(&self, context_length: u32) -> Result<Attention> {
        let mut budget = Budget::for_context(context_length);
        if let Some(blocks) = &self.blocks {
            budget.blocks = blocks.parse::<Blocks>()?;
        }
        budget.tokens = self.tokens.unwrap_or(budget.tokens);
        budget.dense_below = self.dense_below.unwrap_or(budget.dense_below);
        budget.validate()?;
        Ok(match self.attention {
            Kind::Dense => Attention::Dense,
            Kind::TwoLevel => Attention::TwoLevel(budget),
        })
    }
}

/// The name as the option takes it.
pub fn name(attention: &Attention) -> &'static str {
    match attention {
        Attention::Dense => "dense",
        Attention::TwoLevel(_) => "two-level",
    }
}

/// The budgets, where there are any.
pub fn budget(attention: &Attention) -> Option<&Budget> {
    match attention {
        Attention::Dense => None,
        Attention::TwoLevel(budget) => Some(budget),
    }
}
