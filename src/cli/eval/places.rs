//! The options that say where the KV cache of each row is.

use super::super::option_names;
use asynctls::attention::{MostMissed, Timing};
use asynctls::engine::HostRule;
use asynctls::eval::Method;
use asynctls::formats::KvType;
use asynctls::{Error, Result};
use clap::Args;
use std::fmt;
use std::str::FromStr;

/// Where the KV cache is.
#[derive(Args, Debug)]
#[command(next_help_heading = "KV cache")]
pub struct PlaceOptions {
    /// Where the KV cache is, and when chosen blocks must have come that live in CPU memory; each a row of every selection: gpu
    /// (all of it there), exact (before they are attended), lagged (for the next step, which attends among what this one chose),
    /// resident (whenever; a step chooses among those that are there). A step under the last two that misses too much of its
    /// attention is done again, as in `generate`; with what it may miss, lagged:80% or resident:95%/28%, or off for every step to
    /// stand: lagged:off is the paper's rule
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "gpu",
        value_parser = option_names::parse::<When>)]
    timing: Vec<When>,
    /// What the KV cache in CPU memory is stored as, f16 or q8_0, each a row of every selection; dense attention over q8_0
    /// stands beside
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "f16",
        value_parser = option_names::parse::<KvType>)]
    kv_type: Vec<KvType>,
    /// Slots of each layer's KV head for chosen blocks that live in CPU memory [default: half as many again as the largest
    /// budget keeps]
    #[arg(long, value_name = "N", allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub hot_blocks: Option<u32>,
}

/// Where the KV cache is: on the GPU, or in CPU memory by this rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct When(Option<(Timing, MostMissed)>);

fn error(text: &str) -> Error {
    let limit = "it must be gpu, exact, lagged or resident, or one of the last two with what it may miss: lagged:P% or \
                 lagged:P%/P% from 0% to 100%, or lagged:off";
    Error::argument("--timing", text, limit)
}

impl FromStr for When {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, most) = match text.split_once(':') {
            Some((name, most)) => (name, Some(most.parse().map_err(|_| error(text))?)),
            None => (text, None),
        };
        let most_missed = most.unwrap_or_default();
        Ok(Self(match (name, most) {
            ("gpu", None) => None,
            ("exact", None) => Some((Timing::Exact, most_missed)),
            ("lagged", _) => Some((Timing::Lagged, most_missed)),
            ("resident", _) => Some((Timing::Resident, most_missed)),
            _ => return Err(error(text)),
        }))
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("gpu"),
            Some((Timing::Exact, _)) => f.write_str("exact"),
            Some((Timing::Lagged, most)) => write!(f, "lagged:{most}"),
            Some((Timing::Resident, most)) => write!(f, "resident:{most}"),
        }
    }
}

impl PlaceOptions {
    /// Each method in each place. Dense attention stays the first.
    pub fn spread(&self, methods: Vec<Method>) -> Result<Vec<Method>> {
        unlike("--timing", &self.timing, When::to_string)?;
        unlike("--kv-type", &self.kv_type, KvType::to_string)?;
        let has_gpu = self.timing.contains(&When(None));
        let mut all = Vec::new();
        for method in methods {
            if method.selection().is_none() {
                let stored = self.kv_type.iter().filter(|&&kv_type| kv_type != KvType::F16);
                let over = |&kv_type: &KvType| {
                    let (timing, most_missed) = (Timing::Exact, MostMissed::default());
                    method.over_host(HostRule { timing, most_missed, kv_type })
                };
                let beside: Vec<Method> = stored.map(over).collect();
                all.push(method);
                all.extend(beside);
                continue;
            }
            if method.reads_keys() && !has_gpu {
                let limit = "exact logits need the whole KV cache on the GPU: name other scorers, or gpu in --timing too";
                return Err(Error::argument("--scorer", &method.name, limit));
            }
            for When(rule) in &self.timing {
                match *rule {
                    None => all.push(method.clone()),
                    Some(_) if method.reads_keys() => {}
                    Some((timing, most_missed)) => {
                        let rule = |&kv_type: &KvType| HostRule { timing, most_missed, kv_type };
                        let rules = self.kv_type.iter().map(rule);
                        all.extend(rules.map(|rule| method.over_host(rule)));
                    }
                }
            }
        }
        Ok(all)
    }
}

fn unlike<T: PartialEq>(option: &str, list: &[T], name: impl Fn(&T) -> String) -> Result<()> {
    let twice = (1..list.len()).find(|&i| list[..i].contains(&list[i]));
    twice.map_or(Ok(()), |i| Err(Error::argument(option, name(&list[i]), "it is named twice")))
}
