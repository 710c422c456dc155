//! The options that say where the KV cache lives.

use super::option_names;
use super::start::Memory;
use asynctls::attention::{Attention, MostMissed, Reads, Timing, TwoLevel};
use asynctls::engine::{EngineOptions, HostRule, Placement};
use asynctls::formats::KvType;
use asynctls::model::{ModelConfig, ModelFile};
use asynctls::{Error, Result, subject};
use clap::{Args, ValueEnum};

/// Where the KV cache lives.
#[derive(Args, Debug)]
#[command(next_help_heading = "KV cache")]
pub struct CacheOptions {
    /// Where the KV cache lives: gpu, host (in CPU memory, with its hot part on the GPU), or auto: on the GPU if it fits
    #[arg(long, value_enum, default_value_t = Kv::Auto)]
    kv: Kv,
    /// What the KV cache in CPU memory is stored as: f16, or q8_0, which takes half the memory and half the bytes that
    /// cross to the GPU
    #[arg(long, value_name = "TYPE", default_value_t = KvType::F16,
        value_parser = option_names::parse::<KvType>)]
    kv_type: KvType,
    /// GPU memory to make do with, weights and all, such as 8G or 600M [default: nine tenths of the adapter's; with
    /// --kv host, what 1.5 times the blocks that level 1 keeps need]
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    gpu_memory: Option<String>,
    /// When chosen blocks that live in CPU memory must have come: exact (before they are attended), lagged (for the next
    /// step, which attends among what this one chose), resident (whenever; a step chooses among those that are there)
    #[arg(long, value_enum, default_value_t = When::Exact)]
    timing: When,
    /// What a lagged or resident step may miss of its attention: the share of any head, or that and the mean of all heads. One
    /// that misses more is done again, and waits for it. 0% gives the answers of exact; with off every step stands
    #[arg(long, value_name = "P%[/P%]|off", default_value_t = MostMissed::default(), allow_hyphen_values = true,
        value_parser = option_names::parse::<MostMissed>)]
    missed_mass: MostMissed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kv {
    Auto,
    Gpu,
    Host,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum When {
    Exact,
    Lagged,
    Resident,
}

impl CacheOptions {
    /// Checks what can be checked without a model.
    pub fn check(&self) -> Result<()> {
        if self.kv == Kv::Gpu && self.kv_type != KvType::F16 {
            let limit = "on the GPU the KV cache is f16: use --kv host, or auto";
            return Err(Error::argument("--kv-type", self.kv_type, limit));
        }
        self.budget().map(drop)
    }

    /// GPU memory to make do with, if that was said.
    pub fn budget(&self) -> Result<Option<u64>> {
        self.gpu_memory.as_deref().map(|text| parse_size("--gpu-memory", text)).transpose()
    }

    /// Decides where the KV cache lives, when the GPU has this memory.
    pub fn set_up(
        &self,
        file: &ModelFile,
        config: &ModelConfig,
        attention: &Attention,
        memory: Option<&Memory>,
        options: &mut EngineOptions,
    ) -> Result<()> {
        let Attention::TwoLevel(two_level) = attention else {
            if self.kv == Kv::Host {
                let limit =
                    "dense attention needs every block on the GPU: use --attention two-level";
                return Err(Error::argument("--kv", "host", limit));
            }
            if self.kv_type != KvType::F16 {
                let limit = "dense attention needs every block on the GPU, as f16: use --attention two-level";
                return Err(Error::argument("--kv-type", self.kv_type, limit));
            }
            return Ok(());
        };
        let budget = self.budget()?;
        let room = match (budget, self.kv) {
            (Some(budget), _) => Some(budget),
            (None, Kv::Auto) => memory.map(|memory| memory.bytes / 10 * 9),
            (None, Kv::Gpu | Kv::Host) => None,
        };
        let placement = match self.kv {
            // From one place to another in the same memory nothing is gained.
            Kv::Auto if budget.is_none() && memory.is_some_and(|memory| memory.is_shared) => {
                Placement::Gpu
            }
            Kv::Auto => Placement::Auto,
            Kv::Gpu => Placement::Gpu,
            Kv::Host => Placement::Host,
        };
        let timing = match self.timing {
            When::Exact => Timing::Exact,
            When::Lagged => Timing::Lagged,
            When::Resident => Timing::Resident,
        };
        let rule = HostRule { timing, most_missed: self.missed_mass, kv_type: self.kv_type };
        options.place(file, config, placement, two_level, rule, room).map_err(
            |error| match error {
                Error::Argument { what, value, limit }
                    if what == subject::GPU_MEMORY && budget.is_some() =>
                {
                    Error::Argument { what: "--gpu-memory".into(), value, limit }
                }
                Error::Argument { what, limit, .. }
                    if what == subject::KV_CACHE && self.kv == Kv::Host =>
                {
                    Error::argument("--kv", "host", limit)
                }
                other => other,
            },
        )?;
        if options.host.is_some() { check_scorers(two_level) } else { Ok(()) }
    }
}

// Exact logits come from all keys, and the engine would find out after the prompt.
fn check_scorers(two_level: &TwoLevel) -> Result<()> {
    let TwoLevel { block_scorer, token_scorer, .. } = two_level;
    let (what, name) = if block_scorer.reads() == Reads::Keys {
        ("--scorer", block_scorer.name())
    } else if token_scorer.reads() == Reads::Keys {
        ("--token-scorer", token_scorer.name())
    } else {
        return Ok(());
    };
    let limit = "exact logits need the whole KV cache on the GPU: use --kv gpu";
    Err(Error::argument(what, name, limit))
}

/// Bytes, as an option takes them: a number with K, M, G or T, of 1,024 each, or a plain one.
pub fn parse_size(option: &str, text: &str) -> Result<u64> {
    let error = || {
        let limit = "it must be a size above zero such as 8G, 600M or 2.5G";
        Error::argument(option, text, limit)
    };
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match &lower[digits.len()..] {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return Err(error()),
    };
    let number: f64 = digits.trim().parse().map_err(|_| error())?;
    let bytes = number * unit as f64;
    if bytes.is_finite() && (1.0..9.0e18).contains(&bytes) {
        Ok(bytes as u64)
    } else {
        Err(error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_size("--x", "8G").unwrap(), 8 << 30);
        assert_eq!(parse_size("--x", "1.5 MiB").unwrap(), 3 << 19);
        assert_eq!(parse_size("--x", "4096").unwrap(), 4096);
        for bad in ["", "G", "-1G", "0", "8X", "1e30G", "nanG", "inf", "8 G B"] {
            let message = parse_size("--x", bad).unwrap_err().to_string();
            assert!(message.starts_with("--x is"), "{bad}: {message}");
        }
    }
}
