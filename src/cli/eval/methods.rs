//! The options that say which selections are compared.

use super::super::attention::IndexFlags;
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
    /// Scorers to compare, level 1's and after a slash level 2's (codes unless named): codes, minmax, none, oracle /
    /// codes, none, oracle
    #[arg(long, value_name = "LIST", value_delimiter = ',',
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
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    tokens: Option<String>,
    #[command(flatten)]
    index: IndexFlags,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Dense,
    TwoLevel,
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

    /// Asks for the index that these methods need.
    pub fn set_up(&self, methods: &[Method], options: &mut EngineOptions) -> Result<()> {
        self.index.set_up(methods.iter().any(Method::needs_bounds), options)
    }

    /// Each selection.
    pub fn selections(&self, config: &ModelConfig) -> Result<Vec<Method>> {
        let default = Budget::for_context(config.context_length);
        let budgets = if self.budget.is_empty() {
            let blocks = self.blocks.clone().unwrap_or_else(|| default.blocks.to_string());
            let tokens = self.tokens.clone().unwrap_or_else(|| default.tokens.to_string());
            vec![format!("{blocks}+{tokens}")]
        } else {
            self.budget.clone()
        };
        let mut methods: Vec<Method> = Vec::new();
        for budget in &budgets {
            for scorer in &self.scorer {
                let (blocks, tokens) = scorer.split_once('/').unwrap_or((scorer, "codes"));
                let block_scorer: BlockScorer = blocks.parse()?;
                let token_scorer: TokenScorer = tokens.parse()?;
                let method = Method::two_level(block_scorer, token_scorer, parse_budget(budget)?);
                if methods.contains(&method) {
                    return Err(Error::argument("--scorer", scorer, "it is named twice"));
                }
                methods.push(method);
            }
        }
        Ok(methods)
    }
}
