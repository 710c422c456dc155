//! The options that say what decode steps attend, and what index they need.

use asynctls::Result;
use asynctls::attention::{
    Attention, BlockScorer, Blocks, Budget, ChannelSet, TokenScorer, TwoLevel,
};
use asynctls::engine::{EngineOptions, IndexOptions};
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::sync::Arc;

/// The attention of decode steps.
#[derive(Args, Debug)]
#[command(next_help_heading = "Attention")]
pub struct AttentionOptions {
    /// What decode steps attend; prompts are always attended densely
    #[arg(long, value_enum, default_value_t = Kind::TwoLevel)]
    attention: Kind,
    /// Blocks that level 1 keeps: a number, or a share of them such as 25% [default: 16, or 128 for models with a context
    /// above 16k]
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
    #[arg(long, value_name = "SCORER", default_value = "codes", help = block_scorer_help())]
    scorer: String,
    #[arg(long, value_name = "SCORER", default_value = "codes", help = token_scorer_help())]
    token_scorer: String,
    #[command(flatten)]
    index: IndexFlags,
}

/// The index, and its channels.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Index")]
pub struct IndexFlags {
    /// Channels of each key that the index keeps, a multiple of 8 [default: a quarter of the head dimension; 48 of heads of 128 or
    /// more, 64 of latents]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    index_channels: Option<u32>,
    /// Bits of each channel's code: 2, 4 or 8 [default: 4; 2 with the 48 channels of heads of 128 or more]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    index_bits: Option<u32>,
    /// Tokens in a block: 16, 32, 64 or 128
    #[arg(long, value_name = "N", default_value_t = 64, allow_negative_numbers = true)]
    block_size: u32,
    /// Use the stored index channels of this file, which `asynctls calibrate` wrote, instead of choosing them from the
    /// first 1,024 tokens
    #[arg(long, value_name = "FILE", conflicts_with = "index_channels")]
    channels: Option<PathBuf>,
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

    /// The attention that they mean for a model with this context length.
    pub fn of(&self, context_length: u32) -> Result<Attention> {
        let mut budget = Budget::for_context(context_length);
        if let Some(blocks) = &self.blocks {
            budget.blocks = blocks.parse::<Blocks>()?;
        }
        budget.tokens = self.tokens.unwrap_or(budget.tokens);
        budget.dense_below = self.dense_below.unwrap_or(budget.dense_below);
        budget.validate()?;
        let block_scorer = self.scorer.parse::<BlockScorer>()?;
        let token_scorer = self.token_scorer.parse::<TokenScorer>()?;
        Ok(match self.attention {
            Kind::Dense => Attention::Dense,
            Kind::TwoLevel => Attention::TwoLevel(TwoLevel { budget, block_scorer, token_scorer }),
        })
    }

    /// Asks for the index that this attention needs, and no other.
    pub fn set_up(&self, attention: &Attention, options: &mut EngineOptions) -> Result<()> {
        match attention {
            Attention::Dense => {
                options.index = None;
                options.block = self.index.block_size;
                Ok(())
            }
            Attention::TwoLevel(two_level) => {
                self.index.set_up(vec![two_level.block_scorer], options)
            }
        }
    }
}

impl IndexFlags {
    /// Asks for an index, with what these scorers read.
    pub fn set_up(
        &self,
        block_scorers: Vec<BlockScorer>,
        options: &mut EngineOptions,
    ) -> Result<()> {
        let stored = self.channels.as_deref().map(ChannelSet::read).transpose()?.map(Arc::new);
        let (channels, bits) = (self.index_channels, self.index_bits);
        options.block = self.block_size;
        options.index =
            Some(IndexOptions { channels, bits, block_scorers, stored, ..IndexOptions::default() });
        Ok(())
    }
}

fn block_scorer_help() -> String {
    let rows = BlockScorer::all().map(BlockScorer::row);
    let scorers: Vec<String> = rows.map(|row| format!("{} ({})", row.name, row.about)).collect();
    format!("What level 1 ranks blocks by: {}", scorers.join(", "))
}

fn token_scorer_help() -> String {
    let rows = TokenScorer::all().map(TokenScorer::row);
    let scorers: Vec<String> = rows.map(|row| format!("{} ({})", row.name, row.about)).collect();
    format!("What level 2 ranks tokens by: {}", scorers.join(", "))
}

/// The name as the option takes it.
pub fn name(attention: &Attention) -> &'static str {
    match attention {
        Attention::Dense => "dense",
        Attention::TwoLevel(_) => "two-level",
    }
}

/// Whether all of a context of so many tokens is attended because it is short.
pub fn is_short(attention: &Attention, context: u32) -> bool {
    two_level(attention).is_some_and(|two_level| context <= two_level.budget.dense_below)
}

/// The settings of two-level attention, if it is that.
pub fn two_level(attention: &Attention) -> Option<&TwoLevel> {
    match attention {
        Attention::Dense => None,
        Attention::TwoLevel(two_level) => Some(two_level),
    }
}
