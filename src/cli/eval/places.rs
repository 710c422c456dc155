//! The options that say where the KV cache of each row is.

use super::super::option_names;
use asynctls::attention::Timing;
use asynctls::engine::HostRule;
use asynctls::eval::Method;
use asynctls::formats::KvType;
use asynctls::{Error, Result};
use clap::{Args, ValueEnum};

/// Where the KV cache is.
#[derive(Args, Debug)]
#[command(next_help_heading = "KV cache")]
pub struct PlaceOptions {
    /// Where the KV cache is, and when chosen blocks must have come that live in CPU memory; each a row of every selection
    #[arg(long, value_enum, value_name = "LIST", value_delimiter = ',', default_value = "gpu")]
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum When {
    /// All of it on the GPU
    Gpu,
    /// Blocks come before they are attended
    Exact,
    /// Blocks come for the next step, which attends among what this one chose
    Lagged,
    /// Blocks come whenever; a step chooses among those that are there
    Resident,
}

impl When {
    fn timing(self) -> Option<Timing> {
        match self {
            Self::Gpu => None,
            Self::Exact => Some(Timing::Exact),
            Self::Lagged => Some(Timing::Lagged),
            Self::Resident => Some(Timing::Resident),
        }
    }
}

impl PlaceOptions {
    /// Each method in each place. Dense attention stays the first.
    pub fn spread(&self, methods: Vec<Method>) -> Result<Vec<Method>> {
        unlike("--timing", &self.timing, |when| format!("{when:?}").to_lowercase())?;
        unlike("--kv-type", &self.kv_type, KvType::to_string)?;
        let has_gpu = self.timing.contains(&When::Gpu);
        let mut all = Vec::new();
        for method in methods {
            if method.selection().is_none() {
                let stored = self.kv_type.iter().filter(|&&kv_type| kv_type != KvType::F16);
                let over = |&kv_type: &KvType| {
                    method.over_host(HostRule { timing: Timing::Exact, kv_type })
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
            for timing in self.timing.iter().map(|when| when.timing()) {
                match timing {
                    None => all.push(method.clone()),
                    Some(_) if method.reads_keys() => {}
                    Some(timing) => {
                        let rules =
                            self.kv_type.iter().map(|&kv_type| HostRule { timing, kv_type });
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
