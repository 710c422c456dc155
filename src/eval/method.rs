//! The methods that are compared, named: kinds of attention, over keys and values here or there.

use crate::attention::{
    Attention, BlockScorer, Blocks, Budget, Reads, Timing, TokenScorer, TwoLevel,
};
use crate::engine::HostRule;
use crate::formats::KvType;
use crate::{Error, Result, subject};

/// A kind of attention under test, with the name that reports give it.
#[derive(Clone, Debug, PartialEq)]
pub struct Method {
    /// `dense`, or scorers and budget such as `codes/codes 25%+256`; then what is special about the KV cache.
    pub name: String,
    /// The attention of decode steps.
    pub attention: Attention,
    /// How the KV cache is kept in CPU memory; without it all of it is on the GPU.
    pub host: Option<HostRule>,
}

impl Method {
    /// Every token.
    pub fn dense() -> Self {
        Self { name: "dense".into(), attention: Attention::Dense, host: None }
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
            host: None,
        }
    }

    /// The same over a KV cache in CPU memory.
    pub fn over_host(&self, rule: HostRule) -> Self {
        let mut name = self.name.clone();
        // Dense attention waits for every block, whatever the rule.
        if self.selection().is_some() {
            name += &match rule.timing {
                Timing::Exact => " exact".to_owned(),
                Timing::Lagged => format!(" lagged:{}", rule.most_missed),
                Timing::Resident => format!(" resident:{}", rule.most_missed),
            };
        }
        if rule.kv_type != KvType::F16 {
            name += &format!(" {}", rule.kv_type);
        }
        Self { name, host: Some(rule), ..self.clone() }
    }

    /// The selection, if it is one.
    pub fn selection(&self) -> Option<&TwoLevel> {
        match &self.attention {
            Attention::Dense => None,
            Attention::TwoLevel(two_level) => Some(two_level),
        }
    }

    /// Whether it ranks by full keys, all of which must be on the GPU for that.
    pub fn reads_keys(&self) -> bool {
        self.selection().is_some_and(|two_level| {
            two_level.block_scorer.reads() == Reads::Keys
                || two_level.token_scorer.reads() == Reads::Keys
        })
    }

    /// What level 1 ranks blocks by, if it does.
    pub fn block_scorer(&self) -> Option<BlockScorer> {
        self.selection().map(|two_level| two_level.block_scorer)
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
    use crate::attention::MostMissed;

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
        assert!(!method.reads_keys());
        let oracle = Method::two_level(BlockScorer::Codes, TokenScorer::Oracle, budget);
        assert!(oracle.reads_keys());
        let rule =
            |timing, kv_type| HostRule { timing, most_missed: MostMissed::default(), kv_type };
        let lagged = method.over_host(rule(Timing::Lagged, KvType::Q8_0));
        assert_eq!(lagged.name, "minmax/codes 12.5%+128 lagged:90% q8_0");
        let most_missed = MostMissed::ALL;
        let papers = HostRule { most_missed, ..rule(Timing::Lagged, KvType::F16) };
        assert_eq!(method.over_host(papers).name, "minmax/codes 12.5%+128 lagged:off");
        let resident = HostRule { timing: Timing::Resident, ..papers };
        assert_eq!(method.over_host(resident).name, "minmax/codes 12.5%+128 resident:off");
        let dense = |kv_type| Method::dense().over_host(rule(Timing::Exact, kv_type)).name;
        assert_eq!(
            (dense(KvType::F16).as_str(), dense(KvType::Q8_0).as_str()),
            ("dense", "dense q8_0")
        );
    }
}
