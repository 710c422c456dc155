//! `asynctls logits`: the logits after given token ids.

use super::Outcome;
use super::attention::{AttentionOptions, is_short};
use super::fit::Plan;
use super::line::Line;
use super::model_option::ModelOption;
use super::progress::bar;
use super::prompt;
use super::rope::beyond;
use super::start::{Machine, load};
use super::terminal::{SCHEMA, print, to_json};
use super::vain::{self, Known};
use asynctls::attention::Attention;
use asynctls::engine::{Engine, EngineOptions, Want};
use asynctls::gpu::Disable;
use asynctls::model::{ModelConfig, ModelFile};
use asynctls::{Error, Result};
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

/// Options of `asynctls logits`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    #[command(flatten)]
    model: ModelOption,
    /// Token ids, with commas between
    #[arg(
        long,
        value_name = "IDS",
        group = "source",
        required_unless_present = "ids_file",
        allow_hyphen_values = true
    )]
    ids: Option<String>,
    /// A file with token ids, with commas or white space between
    #[arg(long, value_name = "FILE", group = "source")]
    ids_file: Option<PathBuf>,
    /// The logits after every id, not only the last; with two-level attention, every id but the first is a decode step
    #[arg(long)]
    all: bool,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    attention: AttentionOptions,
}

const EXAMPLES: &str = "\
Examples:
  asynctls logits --model model.gguf --ids 504,3575,282,4649,314
  asynctls logits --model model.gguf --ids-file ids.txt --all --attention dense --json > logits.json

With dense attention the ids are a prompt. With two-level attention the last one is a decode step.";

/// Rows of logits that are read back at a time.
const ROWS: u32 = 64;

/// Runs it.
pub fn run(options: &Options, line: &Line) -> Outcome<ExitCode> {
    options.attention.check()?;
    Disable::from_env()?;
    let (what, ids) = options.ids()?;
    let rope = options.model.rope()?;
    let file = ModelFile::open(&options.model.path()?)?;
    let config = ModelConfig::read_changed(&file, rope.as_ref())?;
    check(what, &ids, &config)?;
    let attention = options.attention.of(config.context_length)?;

    let Machine { gpu, memory, .. } = Machine::open(line.adapter())?;
    let mut engine_options = EngineOptions::new(&gpu, ids.len() as u32);
    engine_options.quantise = options.model.quantise();
    engine_options.rope = rope;
    options.attention.set_up(&attention, &mut engine_options)?;
    engine_options.logit_rows = if options.all { ROWS.min(ids.len() as u32) } else { 1 };
    let plan = Plan { file: &file, config: &config, options: engine_options, what, to_host: None };
    plan.check(memory.as_ref(), false)?;
    let is_short = is_short(&attention, ids.len() as u32);
    vain::warn(line, &Known { is_short, ..plan.known()? });
    let engine = load(gpu, plan, false)?.engine;
    let run = Run { engine: &engine, ids: &ids, attention };
    if options.json {
        run.json(options.all)?
    } else {
        run.summary(options.all)?
    }
    Ok(ExitCode::SUCCESS)
}

impl Options {
    // The ids, and the option that they come from.
    fn ids(&self) -> Result<(&'static str, Vec<u32>)> {
        match (&self.ids, &self.ids_file) {
            (_, Some(path)) => {
                let text = prompt::read_text("--ids-file", path)?;
                Ok(("--ids-file", parse("--ids-file", &text)?))
            }
            (ids, None) => Ok(("--ids", parse("--ids", ids.as_deref().unwrap_or_default())?)),
        }
    }
}

fn parse(what: &str, text: &str) -> Result<Vec<u32>> {
    let ids = text
        .split(|c: char| c == ',' || c.is_whitespace())
        .filter(|word| !word.is_empty())
        .map(|word| {
            word.parse().map_err(|_| {
                let shown: String = word.chars().take(40).collect();
                Error::argument(what, format!("{shown:?}"), "token ids are numbers from 0")
            })
        })
        .collect::<Result<Vec<u32>>>()?;
    if ids.is_empty() {
        return Err(Error::argument(what, "empty", "at least one token id is needed"));
    }
    Ok(ids)
}

fn check(what: &str, ids: &[u32], config: &ModelConfig) -> Result<()> {
    if let Some(id) = ids.iter().find(|&&id| id >= config.vocabulary) {
        let limit = format!("the vocabulary has {} tokens, numbered from 0", config.vocabulary);
        return Err(Error::argument(what, id, limit));
    }
    if ids.len() > config.context_length as usize {
        let limit = beyond(config, ids.len() as u64);
        return Err(Error::argument(what, format!("{} tokens", ids.len()), limit));
    }
    Ok(())
}

struct Run<'a> {
    engine: &'a Engine,
    ids: &'a [u32],
    attention: Attention,
}

impl Run<'_> {
    fn json(&self, all: bool) -> Outcome<()> {
        let (ids, list) = (self.ids.len(), if all { "[" } else { "" });
        print(&format!(
            "{{\"command\":\"logits\",\"schema\":{SCHEMA},\"ids\":{ids},\"logits\":{list}"
        ))?;
        let mut is_first = true;
        // Written row by row: all rows together can be larger than memory.
        self.rows(all, &mut |row| {
            let comma = if is_first { "" } else { "," };
            is_first = false;
            print(&format!("{comma}{}", to_json(row)?))
        })?;
        print(if all { "]}\n" } else { "}\n" })
    }

    fn summary(&self, all: bool) -> Outcome<()> {
        let mut position = if all { 1 } else { self.ids.len() };
        self.rows(all, &mut |row| {
            let best: Vec<String> =
                largest(row, 5).iter().map(|(id, logit)| format!("{id} ({logit:.3})")).collect();
            let line = format!("after {position} ids: {}\n", best.join(", "));
            position += 1;
            print(&line)
        })
    }

    // Calls `show` with the logits after the last id, or after each.
    fn rows(&self, all: bool, show: &mut dyn FnMut(&[f32]) -> Outcome<()>) -> Outcome<()> {
        let mut shown = if all { 0 } else { self.ids.len() - 1 };
        let mut show = |row: &[f32]| {
            shown += 1;
            check_row(row, shown)?;
            show(row)
        };
        let mut session = self.engine.session()?;
        let bar = bar("ids", self.ids.len() as u64, false);
        // The tokens before the decode steps, in the portions in which they are shown.
        let (prompt, steps) = match (self.attention, all) {
            (Attention::Dense, _) => (self.ids, &self.ids[..0]),
            (Attention::TwoLevel(_), true) => self.ids.split_at(1),
            (Attention::TwoLevel(_), false) => self.ids.split_at((self.ids.len() - 1).max(1)),
        };
        let portion = if all { ROWS as usize } else { prompt.len() };
        let want = match (all, steps) {
            (true, _) => Want::EveryLogits,
            (false, []) => Want::Logits,
            (false, _) => Want::Nothing,
        };
        for ids in prompt.chunks(portion) {
            let before = u64::from(session.len());
            let progress = &mut |done: u32| {
                bar.set_position(before + u64::from(done));
                true
            };
            let made = pollster::block_on(self.engine.prefill(&mut session, ids, want, progress))?;
            made.logits.iter().try_for_each(|row| show(row))?;
        }
        for &id in steps {
            let batch = &mut [(&mut session, id)];
            let made =
                pollster::block_on(self.engine.decode(batch, &self.attention, Want::Logits))?;
            bar.inc(1);
            made.iter().flat_map(|output| &output.logits).try_for_each(|row| show(row))?;
        }
        drop(bar);
        Ok(())
    }
}

// JSON has no other numbers, and by others no token can be chosen.
fn check_row(row: &[f32], ids: usize) -> Result<()> {
    match row.iter().position(|logit| !logit.is_finite()) {
        None => Ok(()),
        Some(id) => {
            Err(Error::Model(format!("the logit of token {id} after {ids} ids is {}", row[id])))
        }
    }
}

fn largest(row: &[f32], count: usize) -> Vec<(usize, f32)> {
    let mut order: Vec<(usize, f32)> = row.iter().copied().enumerate().collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1));
    order.truncate(count);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_numbers_with_commas_or_space_between() {
        assert_eq!(parse("--ids", "1, 2,3\n4\n").unwrap(), [1, 2, 3, 4]);
        for (bad, message) in [
            ("1,x", "--ids is \"x\", but token ids are numbers from 0"),
            ("-1", "--ids is \"-1\", but token ids are numbers from 0"),
            (" ,", "--ids is empty, but at least one token id is needed"),
        ] {
            assert_eq!(parse("--ids", bad).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn the_largest_logits_come_first() {
        assert_eq!(largest(&[0.5, 2.0, -1.0, 1.0], 2), [(1, 2.0), (3, 1.0)]);
    }
}
