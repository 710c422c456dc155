//! The options that say which selections are compared.

use super::super::attention::IndexFlags;
use super::super::line::Line;
use asynctls::attention::{BlockScorer, Budget, TokenScorer};
use asynctls::engine::EngineOptions;
use asynctls::eval::{Method, parse_budget};
use asynctls::model::ModelConfig;
use asynctls::{Error, Result};
use clap::{Args, ValueEnum};

/// Which selections are compared.
#[derive(Args, Debug)]
#[command(next_help_heading = "Selections")]
pub struct MethodOptions {
    /// What decode steps attend: two-level stands beside dense, dense alone
    #[arg(long, value_enum, default_value_t = Kind::TwoLevel)]
    attention: Kind,
    #[arg(long, value_name = "LIST", value_delimiter = ',', help = scorer_help(),
        default_values = ["codes", "minmax", "none", "oracle/oracle"])]
    scorer: Vec<String>,
    /// Budgets to compare, blocks and tokens such as 25%+256,16+256 [default: 16+256, or 128+1024 for models with a
    /// context above 16k]
    #[arg(long, value_name = "LIST", value_delimiter = ',', conflicts_with_all = ["blocks", "tokens"])]
    budget: Vec<String>,
    /// Blocks of a single budget: a number, or a share such as 25%
    #[arg(long, value_name = "N|P%", allow_hyphen_values = true)]
    blocks: Option<String>,
    /// Tokens of a single budget
    #[arg(long, value_name = "N", allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(1..))]
    tokens: Option<u32>,
    #[command(flatten)]
    index: IndexFlags,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Dense,
    TwoLevel,
}

fn scorer_help() -> String {
    let blocks: Vec<&str> = BlockScorer::all().map(BlockScorer::name).collect();
    let tokens: Vec<&str> = TokenScorer::all().map(TokenScorer::name).collect();
    let (blocks, tokens) = (blocks.join(", "), tokens.join(", "));
    format!(
        "Scorers to compare, level 1's and after a slash level 2's (codes unless named): {blocks} / {tokens}"
    )
}

impl MethodOptions {
    /// Dense attention first, then each selection.
    pub fn all(&self, config: &ModelConfig) -> Result<Vec<Method>> {
        let mut methods = vec![Method::dense()];
        if self.attention == Kind::TwoLevel {
            methods.extend(self.selections(config)?);
        }
        Ok(methods)
    }

    /// The selection, of which there must be one alone; the scorers that stand there by default are no wish for more.
    pub fn selection(&self, config: &ModelConfig, line: &Line) -> Result<Method> {
        let (scorers, budgets) = (self.scorer.join(","), self.budget.join(","));
        for (what, value, is_list) in [
            ("--scorer", scorers, line.gives("scorer") && self.scorer.len() > 1),
            ("--budget", budgets, self.budget.len() > 1),
        ] {
            if is_list {
                return Err(Error::argument(what, value, "one selection alone is recorded"));
            }
        }
        let first = self.selections(config)?.into_iter().next();
        first.ok_or_else(|| Error::argument("--scorer", "empty", "one selection is recorded"))
    }

    /// Asks for the index that these methods need.
    pub fn set_up(&self, methods: &[Method], options: &mut EngineOptions) -> Result<()> {
        self.index.set_up(methods.iter().filter_map(Method::block_scorer).collect(), options)
    }

    /// Each selection, of which there must be some.
    pub fn selections(&self, config: &ModelConfig) -> Result<Vec<Method>> {
        if self.attention == Kind::Dense {
            let limit = "what is measured here is how a selection differs from it: use two-level";
            return Err(Error::argument("--attention", "dense", limit));
        }
        let default = Budget::for_context(config.context_length);
        let budgets = if self.budget.is_empty() {
            let blocks = self.blocks.as_deref().map_or(Ok(default.blocks), str::parse)?;
            vec![(blocks, self.tokens.unwrap_or(default.tokens))]
        } else {
            self.budget.iter().map(|budget| parse_budget(budget)).collect::<Result<Vec<_>>>()?
        };
        let mut methods: Vec<Method> = Vec::new();
        for budget in budgets {
            for scorer in &self.scorer {
                let (blocks, tokens) = scorer.split_once('/').unwrap_or((scorer, "codes"));
                let block_scorer: BlockScorer = blocks.parse()?;
                let token_scorer: TokenScorer = tokens.parse().map_err(|error| match error {
                    Error::Argument { limit, .. } => {
                        Error::argument("--scorer", scorer, format!("after the slash {limit}"))
                    }
                    other => other,
                })?;
                let method = Method::two_level(block_scorer, token_scorer, budget);
                if methods.contains(&method) {
                    return Err(Error::argument("--scorer", scorer, "it is named twice"));
                }
                methods.push(method);
            }
        }
        Ok(methods)
    }
}
