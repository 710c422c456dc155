//! The methods that are compared: kinds of attention, named.

use crate::attention::{Attention, BlockScorer, Blocks, Budget, TokenScorer, TwoLevel};
use crate::{Error, Result, subject};

/// A kind of attention under test, with the name that reports give it.
#[derive(Clone, Debug, PartialEq)]
pub struct Method {
    /// `dense`, or scorers and budget such as `codes/codes 25%+256`.
    pub name: String,
    /// The attention of decode steps.
    pub attention: Attention,
}

impl Method {
    /// Every token.
    pub fn dense() -> Self {
        Self { name: "dense".into(), attention: Attention::Dense }
    }

    /// Two-level attention from the first token on, with the default sink and recent window.
    pub fn two_level(
        block_scorer: BlockScorer,
        token_scorer: TokenScorer,
        (blocks, tokens): (Blocks, u32),
    ) -> Self {
        let budget = Budget { blocks, tokens, sink_blocks: 1, recent_blocks: 4, dense_below: 0 };
        Self {
            name: format!("{block_scorer}/{token_scorer} {blocks}+{tokens}"),
            attention: Attention::TwoLevel(TwoLevel { budget, block_scorer, token_scorer }),
        }
    }

    /// What level 1 ranks blocks by, if it does.
    pub fn block_scorer(&self) -> Option<BlockScorer> {
        match &self.attention {
            Attention::Dense => None,
            Attention::TwoLevel(two_level) => Some(two_level.block_scorer),
        }
    }
}

/// Reads a budget such as `25%+256`: blocks, as a number or a share, and tokens.
///
/// # Errors
/// [`Error::Argument`] naming what it is, its value and what it takes.
pub fn parse_budget(text: &str) -> Result<(Blocks, u32)> {
    let error = || {
        let limit = "it must be blocks and tokens such as 25%+256 or 16+256";
        Error::argument(subject::BUDGET, text, limit)
    };
    let (blocks, tokens) = text.split_once('+').ok_or_else(error)?;
    let blocks = blocks.trim().parse::<Blocks>().map_err(|_| error())?;
    match tokens.trim().parse() {
        Ok(tokens) if tokens > 0 => Ok((blocks, tokens)),
        _ => Err(error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_blocks_and_tokens() {
        assert_eq!(parse_budget("25%+256").unwrap(), (Blocks::Percent(25.0), 256));
        assert_eq!(parse_budget("16 + 1").unwrap(), (Blocks::Count(16), 1));
        for bad in ["25%", "25%+", "+256", "0+1", "1+0", "1+1+1", "a+b", ""] {
            let message = parse_budget(bad).unwrap_err().to_string();
            assert!(message.contains("such as 25%+256"), "{message}");
        }
    }

    #[test]
    fn names_say_what_a_method_does() {
        let budget = parse_budget("12.5%+128").unwrap();
        let method = Method::two_level(BlockScorer::MinMax, TokenScorer::Codes, budget);
        assert_eq!(method.name, "minmax/codes 12.5%+128");
        assert_eq!(method.block_scorer(), Some(BlockScorer::MinMax));
        assert_eq!(Method::dense().block_scorer(), None);
    }
}
