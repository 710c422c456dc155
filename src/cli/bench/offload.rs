//! `asynctls bench offload`.

use super::super::Outcome;
use super::super::fit::Plan;
use super::super::line::Line;
use super::super::progress::bar;
use super::super::start::{Machine, load};
use super::super::terminal::{print, print_json, size};
use super::super::vain::{self, Known};
use super::churn::{Heads, Lists, check_room, churn, recorded, steps_to_fill};
use super::measure::{Measured, Rule, Steps, measure};
use super::report::{Row, compare, plot, table};
use super::shape::{Kept, ShapeOptions};
use super::weights;
use asynctls::attention::{Budget, RowBudget, Shape};
use asynctls::engine::{Engine, EngineOptions};
use asynctls::eval::plot::{bars, timeline};
use asynctls::eval::trace::Selections;
use asynctls::formats::KvType;
use asynctls::gpu::{Gpu, GpuOptions, TimeSpan};
use asynctls::model::ModelConfig;
use asynctls::{Error, Result};
use clap::Args;
use serde::Serialize;
use std::cell::OnceCell;
use std::path::PathBuf;
use std::process::ExitCode;

/// Options of `asynctls bench offload`.
#[derive(Args, Debug)]
pub struct Options {
    #[command(flatten)]
    shape: ShapeOptions,
    /// Types of the weights: f16, bf16, q8_0, q4_0 or q4_k
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "q4_0")]
    weights: Vec<String>,
    /// Tokens at the end of a run
    #[arg(long, value_name = "N", default_value_t = 8192, allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(1..=EngineOptions::MOST_CONTEXT.into()))]
    context: u32,
    /// Shares of the chosen blocks that are new in each step; none new is always measured too
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "3%,10%",
        allow_hyphen_values = true, value_parser = share)]
    misses: Vec<f64>,
    /// Where the KV cache is, and when what is chosen of it comes
    #[arg(
        long,
        value_enum,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "gpu,lagged,resident,exact,no-overlap"
    )]
    timing: Vec<Rule>,
    /// Steps that are timed, of each rule
    #[arg(long, value_name = "N", default_value_t = 8, allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(1..=10_000))]
    steps: u32,
    /// Replay this trace, which `asynctls eval trace` recorded, instead of random blocks
    #[arg(long, value_name = "FILE", conflicts_with_all = ["context", "blocks", "misses"])]
    trace: Option<PathBuf>,
    /// What random choices are drawn from
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
    /// Draw the times of steps into this file
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Draw what CPU and GPU did in one step into this file: lagged where it is measured, with the most that is new
    #[arg(long, value_name = "FILE.svg")]
    timeline: Option<PathBuf>,
}

/// A share, as options take it.
pub fn share(text: &str) -> std::result::Result<f64, String> {
    let number = text.trim().strip_suffix('%').unwrap_or(text).trim().parse::<f64>();
    let percent = number.ok().filter(|share| (0.0..=100.0).contains(share));
    percent.map(|share| share / 100.0).ok_or_else(|| "a share from 0% to 100%".into())
}

/// A share as the option takes it.
pub fn percent(share: f64) -> String {
    format!("{}%", (share * 1e4).round() / 1e2)
}

/// A share that is new from step to step, none for a trace, and the lists of its steps.
type Run = (Option<f64>, Vec<Lists>);

/// The steps that are replayed.
struct Replay {
    source: Source,
    kept: Kept,
    steps: Steps,
    /// Tokens before the first step.
    start: u32,
}

/// Where lists come from.
enum Source {
    Trace(Vec<Lists>),
    Churn { heads: Heads, row: RowBudget, shares: Vec<f64>, seed: u64 },
}

impl Replay {
    fn context(&self) -> u32 {
        self.start + self.steps.total() as u32
    }

    // A list of each step and head, which are many where the context is long.
    fn runs(&self) -> Vec<Run> {
        let total = self.steps.total();
        match &self.source {
            Source::Trace(lists) => {
                let quiet = vec![lists[0].clone(); total];
                vec![(Some(0.0), quiet), (None, lists[..total].to_vec())]
            }
            Source::Churn { heads, row, shares, seed } => {
                let run = |&share| (Some(share), churn(*heads, row, share, total, *seed));
                shares.iter().map(run).collect()
            }
        }
    }
}

#[derive(Serialize)]
struct Report<'a> {
    adapter: &'a str,
    kernels: &'static str,
    model_shape: &'a str,
    layers: u32,
    context: u32,
    block_size: u32,
    blocks: String,
    tokens: u32,
    hot_blocks: u32,
    /// The stored type of the KV cache in CPU memory.
    kv_type: KvType,
    seed: u64,
    trace: Option<String>,
    /// Bytes of the KV cache of the whole context.
    kv_bytes: u64,
    results: &'a [Row],
}

/// Runs it.
pub fn run(options: &Options, line: &Line) -> Outcome<ExitCode> {
    let model = options.shape.model()?;
    let kinds = options.weights.iter().map(|name| weights(name)).collect::<Result<Vec<_>>>()?;
    let files = kinds.iter().map(|kind| model.open(*kind)).collect::<Result<Vec<_>>>()?;
    let config = ModelConfig::read(&files[0])?;
    let replay = replay(options, &config)?;
    let machine =
        Machine::open_with(line.adapter(), GpuOptions { clock: true, ..GpuOptions::default() })?;
    let memory = machine.memory;
    vain::warn(line, &Known { has_clock: machine.gpu.has_clock(), ..Known::default() });
    let mut gpu = machine.gpu;
    let mut rows = Vec::new();
    // Made once it is known that the context fits.
    let runs = OnceCell::new();
    let mut seen: Option<(String, Vec<TimeSpan>)> = None;
    for (file, name) in files.iter().zip(&options.weights) {
        for is_on_gpu in [true, false] {
            let rules: Vec<Rule> = options
                .timing
                .iter()
                .copied()
                .filter(|rule| (*rule == Rule::Gpu) == is_on_gpu)
                .collect();
            if rules.is_empty() {
                continue;
            }
            let own = engine_options(options, &gpu, &config, &replay, is_on_gpu);
            own.check_host_memory(file, &config)?;
            let plan =
                Plan { file, config: &config, options: own, what: "--context", to_host: None };
            plan.check(memory.as_ref(), false)?;
            let mut engine = load(gpu, plan, false)?.engine;
            let has_lagged = options.timing.contains(&Rule::Lagged);
            let runs = runs.get_or_init(|| replay.runs());
            let results = pollster::block_on(all(&mut engine, &replay, runs, &rules))?;
            for ((rule, misses), measured) in results {
                let row = Row::new((name, misses, rule), &measured, &engine);
                if let Some(traced) = measured.traced
                    && (rule == Rule::Lagged || !has_lagged)
                {
                    let title = format!(
                        "{} {name}, {} tokens: a step, {}{}",
                        options.shape.model_shape,
                        replay.context(),
                        rule.name(),
                        misses.map_or_else(String::new, |m| format!(", {} new", percent(m)))
                    );
                    seen = Some((title, traced.step));
                }
                rows.push(row);
            }
            let Engine { gpu: back, .. } = engine;
            gpu = back;
        }
    }
    compare(&mut rows);
    let shape = engine_options(options, &gpu, &config, &replay, true).shape(&config);
    let blocks = u64::from(replay.context().div_ceil(options.shape.block_size));
    let kv_bytes = blocks * u64::from(config.layers) * shape.block_bytes();
    let title = format!(
        "{} of {} layers on {}: {} tokens of context ({} of KV cache), {} blocks and {} tokens \
         kept, {} hot slots, {} in CPU memory, {} steps",
        options.shape.model_shape,
        config.layers,
        gpu.label(),
        replay.context(),
        size(kv_bytes),
        replay.kept.blocks,
        replay.kept.two_level.budget.tokens,
        replay.kept.hot_blocks,
        options.shape.kv_type,
        replay.steps.timed
    );
    if let Some(path) = &options.plot {
        bars(path, &plot(&title, &rows))?;
    }
    if let (Some(path), Some((title, spans))) = (&options.timeline, &seen) {
        timeline(path, title, spans, Engine::GROUP_LAYERS)?;
    }
    if options.json {
        let report = Report {
            adapter: gpu.label(),
            kernels: gpu.tier().name,
            model_shape: &options.shape.model_shape,
            layers: config.layers,
            context: replay.context(),
            block_size: options.shape.block_size,
            blocks: replay.kept.blocks.to_string(),
            tokens: replay.kept.two_level.budget.tokens,
            hot_blocks: replay.kept.hot_blocks,
            kv_type: options.shape.kv_type,
            seed: options.seed,
            trace: options.trace.as_ref().map(|path| path.display().to_string()),
            kv_bytes,
            results: &rows,
        };
        print_json("bench offload", &report)?;
    } else {
        print(&format!("{title}\n\n{}", table(&rows)?.to_text()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A rule, what is new from step to step, and what was measured.
type Found = ((Rule, Option<f64>), Measured);

// Every run under every rule.
async fn all(
    engine: &mut Engine,
    replay: &Replay,
    runs: &[Run],
    rules: &[Rule],
) -> Result<Vec<Found>> {
    let mut session = engine.pretend(replay.start).await?;
    let steps = runs.len() * rules.len() * replay.steps.total();
    let bar = bar("replaying", steps as u64, false);
    let mut results = Vec::new();
    for (misses, lists) in runs {
        for &rule in rules {
            let how = (rule, replay.steps);
            let mut progress = || bar.inc(1);
            let made =
                measure(engine, &mut session, lists, &replay.kept.two_level, how, &mut progress);
            results.push(((rule, *misses), made.await?));
        }
    }
    drop(bar);
    Ok(results)
}

fn replay(options: &Options, config: &ModelConfig) -> Result<Replay> {
    let shape = Shape { block: options.shape.block_size, ..config.shape() };
    shape.validate()?;
    let heads = Heads { layers: config.layers as usize, kv_heads: shape.kv_heads as usize };
    let trace = options.trace.as_deref().map(Selections::read).transpose()?;
    let lists = trace.as_ref().map(|trace| recorded(trace, heads)).transpose()?;
    let mut steps = Steps { warm: 4, timed: options.steps as usize, traced: 4 };
    if let Some(lists) = &lists {
        // All of them but those before and after.
        steps.timed = steps.timed.min(lists.len().saturating_sub(steps.warm + steps.traced));
        if steps.timed == 0 {
            let limit = format!("at least {} are needed", steps.warm + steps.traced + 1);
            return Err(Error::argument("--trace", format!("{} steps", lists.len()), limit));
        }
    } else if options.context as usize <= steps.total() {
        let limit = format!("{} steps go before its end", steps.total());
        return Err(Error::argument("--context", options.context, limit));
    }
    let context = match &trace {
        Some(trace) => {
            let (first, most) = (trace.positions[0], EngineOptions::MOST_CONTEXT);
            first.checked_add(steps.total() as u32).filter(|&end| end <= most).ok_or_else(|| {
                let limit = format!("at most {most} tokens can be replayed");
                Error::argument("--trace", format!("from position {first} on"), limit)
            })?
        }
        None => options.context,
    };
    let listed = lists.as_ref().map(|lists| lists[0][0][0].len() as u32);
    let kept = options.shape.kept(context, listed)?;
    let Kept { two_level, blocks, hot_blocks } = kept;
    let budget = two_level.budget;
    let source = match lists {
        Some(lists) => {
            let positions = trace.map_or_else(Vec::new, |trace| trace.positions);
            check_trace(&lists, &positions, &budget, options.shape.block_size)?;
            Source::Trace(lists)
        }
        None => {
            let most = options.misses.iter().copied().fold(0.0, f64::max);
            let some = options.misses.iter().copied().filter(|share| *share > 0.0);
            // Slack is full of what is not chosen any more before steps count.
            let least = some.clone().fold(1.0, f64::min);
            let warm = steps_to_fill(hot_blocks - blocks, blocks, least);
            if warm.saturating_add(steps.total()) >= context as usize {
                let limit = format!(
                    "more steps go before its end where {} hot slots beyond the {blocks} blocks chosen fill by {} a step",
                    hot_blocks - blocks,
                    percent(least)
                );
                return Err(Error::argument("--context", context, limit));
            }
            steps.warm += warm;
            let row = budget.row(context - steps.total() as u32, options.shape.block_size);
            check_room(&row, ("--context", context), hot_blocks, most)?;
            let shares = [0.0].into_iter().chain(some).collect();
            Source::Churn { heads, row, shares, seed: options.seed }
        }
    };
    let start = context - steps.total() as u32;
    Ok(Replay { source, kept, steps, start })
}

// Whether a step could have chosen what a trace says.
fn check_trace(lists: &[Lists], positions: &[u32], budget: &Budget, block: u32) -> Result<()> {
    for (step, (lists, &position)) in lists.iter().zip(positions).enumerate() {
        let row = budget.row(position, block);
        let kept = lists[0][0].len() as u32;
        let eligible = row.sink..row.recent_first;
        let stray = lists.iter().flatten().flatten().find(|block| !eligible.contains(block));
        if row.blocks != kept || stray.is_some() {
            let found = format!(
                "{kept} blocks{} in step {step}",
                stray.map_or_else(String::new, |b| format!(", {b} among them,"))
            );
            let limit = format!(
                "at position {position} there are {} to {} of {block} tokens",
                row.sink, row.recent_first
            );
            return Err(Error::argument("--trace", found, limit));
        }
    }
    Ok(())
}

fn engine_options(
    options: &Options,
    gpu: &Gpu,
    config: &ModelConfig,
    replay: &Replay,
    is_on_gpu: bool,
) -> EngineOptions {
    let mut own = EngineOptions::new(gpu, replay.context());
    own.block = options.shape.block_size;
    own.steered = Some(replay.kept.blocks);
    if !is_on_gpu {
        own.host = Some(own.host_options(config, replay.kept.hot_blocks, options.shape.kv_type));
    }
    own
}
