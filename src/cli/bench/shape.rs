//! What the benches of whole steps are told alike: a model's shapes, and what a step keeps of a sequence.

use super::super::option_names;
use super::named;
use asynctls::attention::{Blocks, Budget, Shape, TwoLevel};
use asynctls::formats::KvType;
use asynctls::model::RandomModel;
use asynctls::{Error, Result};
use clap::Args;

/// Options of shapes.
#[derive(Args, Debug)]
pub struct ShapeOptions {
    /// Shapes of the model: qwen3-8b, qwen3-0.6b, qwen3-30b-a3b, glm-4.7-flash, smollm2 or tiny; weights are random
    #[arg(long, value_name = "NAME", default_value = "smollm2")]
    pub model_shape: String,
    /// Layers, where they should be others than the model's
    #[arg(long, value_name = "N", allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub layers: Option<u32>,
    /// Tokens in a block: 16, 32, 64 or 128
    #[arg(long, value_name = "N", default_value_t = Shape::BLOCK, allow_negative_numbers = true)]
    pub block_size: u32,
    /// Blocks that level 1 keeps [default: as `generate` for this many tokens]
    #[arg(long, value_name = "N", allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(1..))]
    pub blocks: Option<u32>,
    /// Tokens that level 2 keeps [default: as `generate` for this many tokens]
    #[arg(long, value_name = "N", allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(1..))]
    pub tokens: Option<u32>,
    /// Slots of a sequence, in each layer's KV head, for chosen blocks [default: half as many again as --blocks]
    #[arg(long, value_name = "N", allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(1..))]
    pub hot_blocks: Option<u32>,
    /// What the KV cache in CPU memory is stored as: f16 or q8_0
    #[arg(long, value_name = "TYPE", default_value_t = KvType::F16,
        value_parser = option_names::parse::<KvType>)]
    pub kv_type: KvType,
}

/// What a step keeps of a sequence.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    pub two_level: TwoLevel,
    /// Blocks that level 1 keeps.
    pub blocks: u32,
    /// Slots for them, a KV head.
    pub hot_blocks: u32,
}

impl ShapeOptions {
    /// The model of random weights.
    pub fn model(&self) -> Result<RandomModel> {
        let model = named(&self.model_shape)?;
        Ok(match self.layers {
            Some(layers) => model.with_layers(layers),
            None => model,
        })
    }

    /// What steps of so many tokens keep; `listed`: the blocks that a trace lists.
    ///
    /// # Errors
    /// [`Error::Argument`] for a budget that makes no sense, and for fewer slots than blocks.
    pub fn kept(&self, tokens: u32, listed: Option<u32>) -> Result<Kept> {
        let default = Budget::for_context(tokens);
        let blocks = match (listed.or(self.blocks), default.blocks) {
            (Some(blocks), _) | (None, Blocks::Count(blocks)) => blocks,
            (None, Blocks::Percent(_)) => unreachable!("the default is a count"),
        };
        let budget = Budget {
            blocks: Blocks::Count(blocks),
            tokens: self.tokens.unwrap_or(default.tokens),
            dense_below: 0,
            ..default
        };
        budget.validate()?;
        let hot_blocks = self.hot_blocks.unwrap_or(blocks.saturating_add(blocks.div_ceil(2)));
        if hot_blocks < blocks {
            let limit = format!("the {blocks} blocks that are chosen have to fit");
            return Err(Error::argument("--hot-blocks", hot_blocks, limit));
        }
        Ok(Kept { two_level: TwoLevel::new(budget), blocks, hot_blocks })
    }
}
