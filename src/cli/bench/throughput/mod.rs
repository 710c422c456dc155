//! `asynctls bench throughput`: tokens a second of many sequences that decode together, in the same GPU memory.
//!
//! The steps are the engine's own, on random weights in a model's shapes; prompts are pretended. Where the KV cache is in CPU memory,
//! what steps attend is listed, so that a given share of it is new in each.

mod report;
mod steps;
mod ways;

use super::super::Outcome;
use super::super::cache::parse_size;
use super::super::line::Line;
use super::super::progress::{Progress, bar};
use super::super::start::Machine;
use super::super::terminal::{print, print_json, size};
use super::super::vain::{self, Known};
use super::churn::{check_room, steps_to_fill};
use super::offload::{percent, share};
use super::shape::ShapeOptions;
use super::weights;
use asynctls::engine::{Engine, EngineOptions, Fit, Model, ModelOptions, Want};
use asynctls::formats::KvType;
use asynctls::gpu::{Gpu, GpuOptions};
use asynctls::model::{ModelConfig, ModelFile};
use asynctls::{Error, Result};
use clap::Args;
use report::{BreakEven, Row, compare, table};
use serde::Serialize;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;
use steps::{Steps, pretend, time};
use ways::{Largest, Load, Way};

/// Options of `asynctls bench throughput`.
#[derive(Args, Debug)]
pub struct Options {
    #[command(flatten)]
    shape: ShapeOptions,
    /// Type of the weights: f16, bf16, q8_0, q4_0 or q4_k
    #[arg(long, value_name = "TYPE", default_value = "q4_0")]
    weights: String,
    /// Tokens of each sequence
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "8192",
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(1..=EngineOptions::MOST_CONTEXT.into()))]
    lengths: Vec<u32>,
    /// Sequences that decode together; the most that fit are always measured too
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1",
        allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=1024))]
    batches: Vec<u32>,
    /// The most sequences that are tried
    #[arg(long, value_name = "N", default_value_t = 64, allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(1..=1024))]
    most: u32,
    /// GPU memory that each engine may take, such as 24G [default: nine tenths of what is free]
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    gpu_memory: Option<String>,
    /// What is attended, and where the KV cache is
    #[arg(
        long,
        value_enum,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "dense,two-level,lagged,exact"
    )]
    ways: Vec<Way>,
    /// Share of the chosen blocks that is new in each step, where the KV cache is in CPU memory
    #[arg(long, value_name = "P%", default_value = "3%", allow_hyphen_values = true,
        value_parser = share)]
    misses: f64,
    /// Steps that are timed
    #[arg(long, value_name = "N", default_value_t = 16, allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(1..=10_000))]
    steps: u32,
    /// Compute a prompt too on each engine of the largest batch, for the time until the first token; one of 96k takes a minute on a
    /// large GPU
    #[arg(long)]
    first_token: bool,
    /// What random choices are drawn from
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    adapter: &'a str,
    driver: &'a str,
    kernels: &'static str,
    model_shape: &'a str,
    layers: u32,
    weights: &'a str,
    block_size: u32,
    kv_type: KvType,
    /// Share of the chosen blocks that is new in each step.
    asked_misses: f64,
    /// Bytes that each engine might take on the GPU.
    gpu_memory: u64,
    seed: u64,
    results: &'a [Row],
    /// From where on two-level attention is faster, of each batch.
    break_even: &'a [BreakEven],
}

/// Engines of one length.
struct Length<'a> {
    tokens: u32,
    load: Load<'a>,
    steps: Steps,
    /// Ways in the order in which they were asked for.
    ways: Vec<(Way, Largest)>,
}

impl Length<'_> {
    // None where not even one sequence can decode.
    fn batches(&self, most: u32, asked: &[u32]) -> Vec<u32> {
        if most == 0 {
            return Vec::new();
        }
        let mut batches: Vec<u32> = asked.iter().copied().filter(|&batch| batch < most).collect();
        batches.push(most);
        batches.sort_unstable();
        batches.dedup();
        batches
    }
}

/// Runs it.
pub fn run(options: &Options, line: &Line) -> Outcome<ExitCode> {
    let model = options.shape.model()?;
    let file = model.open(weights(&options.weights)?)?;
    let config = ModelConfig::read(&file)?;
    let memory = options.gpu_memory.as_deref();
    let memory = memory.map(|text| parse_size("--gpu-memory", text)).transpose()?;
    let machine = Machine::open_with(line.adapter(), GpuOptions::default())?;
    vain::warn(line, &Known::default());
    let free = machine.memory.map(|memory| (memory.bytes / 10 * 9, memory.is_shared));
    let memory = match (memory, free) {
        (Some(memory), free) => (memory, free.is_some_and(|(_, is_shared)| is_shared)),
        (None, Some(free)) => free,
        (None, None) => {
            let limit =
                "this adapter does not tell how much it has: say how much an engine may take";
            return Err(Error::argument("--gpu-memory", "left out", limit).into());
        }
    };
    let gpu = machine.gpu;
    let mut lengths = Vec::new();
    for &tokens in &options.lengths {
        let (load, steps) = plan(options, (&file, &config, &gpu), memory, tokens)?;
        let mut length = Length { tokens, load, steps, ways: Vec::new() };
        for &way in &options.ways {
            let largest = length.load.largest_batch(way, tokens, options.most)?;
            length.ways.push((way, largest));
        }
        lengths.push(length);
    }
    let total = file.loaded_bytes();
    let loading = bar("loading", total, true);
    let mut progress = |bytes| loading.inc(bytes);
    let model = Model::load(&gpu, &file, ModelOptions::default(), &mut progress);
    let model = Arc::new(pollster::block_on(model)?);
    drop(loading);
    let mut rows = Vec::new();
    for length in &lengths {
        pollster::block_on(measure(&gpu, &model, length, options, &mut rows))?;
    }
    compare(&mut rows);
    let break_even = BreakEven::of(&rows);
    if options.json {
        let report = Report {
            adapter: gpu.label(),
            driver: &gpu.info().driver_info,
            kernels: gpu.tier().name,
            model_shape: &options.shape.model_shape,
            layers: config.layers,
            weights: &options.weights,
            block_size: options.shape.block_size,
            kv_type: options.shape.kv_type,
            asked_misses: options.misses,
            gpu_memory: memory.0,
            seed: options.seed,
            results: &rows,
            break_even: &break_even,
        };
        print_json("bench throughput", &report)?;
    } else {
        let title = format!(
            "{} of {} layers in {} on {}: {} of GPU memory for each engine; {} in CPU memory, of which {} of the chosen blocks \
             are new in a step; {} steps",
            options.shape.model_shape,
            config.layers,
            options.weights,
            gpu.label(),
            size(memory.0),
            options.shape.kv_type,
            percent(options.misses),
            options.steps
        );
        let mut text = format!("{title}\n\n{}", table(&rows)?.to_text());
        if !break_even.is_empty() {
            text.push('\n');
        }
        for batch in &break_even {
            text += &batch.text();
            text.push('\n');
        }
        print(&text)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What engines of this length are made for, and their steps.
fn plan<'a>(
    options: &Options,
    (file, config, gpu): (&'a ModelFile, &'a ModelConfig, &'a Gpu),
    memory: (u64, bool),
    tokens: u32,
) -> Result<(Load<'a>, Steps)> {
    let kept = options.shape.kept(tokens, None)?;
    let offloads = options.ways.iter().any(|way| way.timing().is_some());
    // Slack is full of what is not chosen any more before steps count.
    let fill = match offloads && options.misses > 0.0 {
        true => steps_to_fill(kept.hot_blocks - kept.blocks, kept.blocks, options.misses),
        false => 0,
    };
    let (warm, timed) = (4 + fill, options.steps as usize);
    let steps = Steps { warm, timed, misses: options.misses, seed: options.seed };
    if tokens as usize <= steps.total() {
        let limit = format!("{} steps go before its end", steps.total());
        return Err(Error::argument("--lengths", tokens, limit));
    }
    if offloads {
        let budget = kept.two_level.budget;
        let row = budget.row(tokens - steps.total() as u32, options.shape.block_size);
        check_room(&row, ("--lengths", tokens), kept.hot_blocks, options.misses)?;
    }
    let load = Load {
        file,
        config,
        gpu,
        memory,
        block: options.shape.block_size,
        kept,
        kv_type: options.shape.kv_type,
    };
    Ok((load, steps))
}

/// All ways at one length; those that can go on one engine follow one another.
async fn measure(
    gpu: &Gpu,
    model: &Arc<Model>,
    length: &Length<'_>,
    options: &Options,
    rows: &mut Vec<Row>,
) -> Result<()> {
    let batches = |largest: &Largest| length.batches(largest.batch, &options.batches);
    let runs = length.ways.iter().map(|(_, largest)| batches(largest).len());
    let steps = runs.sum::<usize>() * length.steps.total();
    let progress = bar(&format!("decoding at {} tokens", length.tokens), steps as u64, false);
    for ways in length.ways.chunk_by(|(a, _), (b, _)| a.shares_engine(*b)) {
        let largest = &ways[0].1;
        let limit = || Some(largest.limit.clone());
        let ways: Vec<Way> = ways.iter().map(|(way, _)| *way).collect();
        if largest.batch == 0 {
            rows.extend(ways.iter().map(|&way| Row::skipped(length.tokens, way, limit())));
        }
        for batch in batches(largest) {
            let many = (batch, limit().filter(|_| batch == largest.batch));
            rows.extend(together(gpu, model, length, &ways, many, options, &progress).await?);
        }
    }
    Ok(())
}

/// Ways that one engine can go by, in turn.
async fn together(
    gpu: &Gpu,
    model: &Arc<Model>,
    length: &Length<'_>,
    ways: &[Way],
    (batch, limit): (u32, Option<String>),
    options: &Options,
    progress: &Progress,
) -> Result<Vec<Row>> {
    let Length { tokens, load, steps, .. } = length;
    let own = load.options(ways[0], *tokens, batch);
    let fit = Fit::new(load.file, load.config, &own)?;
    let mut engine = Engine::new(gpu.share(), model.clone(), own).await?;
    let start = tokens - steps.total() as u32;
    let first_token = match options.first_token && limit.is_some() {
        true => Some(first_token(&engine, start).await?),
        false => None,
    };
    let mut sessions = pretend(&engine, start, batch).await?;
    let mut rows = Vec::new();
    for &way in ways {
        let mut step = || progress.inc(1);
        let timed = time(&mut engine, &mut sessions, (load, way), steps, &mut step).await?;
        rows.push(Row::new((*tokens, way), (batch, limit.clone()), &timed, first_token, &fit));
    }
    Ok(rows)
}

/// Seconds that a prompt of so many tokens takes.
async fn first_token(engine: &Engine, tokens: u32) -> Result<f64> {
    let vocabulary = engine.config.vocabulary;
    let prompt: Vec<u32> =
        (0..tokens).map(|i| i.wrapping_mul(7919).wrapping_add(13) % vocabulary).collect();
    let mut session = engine.session()?;
    let progress = bar("a prompt", tokens.into(), false);
    let mut done = 0;
    let mut advance = |now: u32| {
        progress.inc(u64::from(now - done));
        done = now;
        true
    };
    let began = Instant::now();
    engine.prefill(&mut session, &prompt, Want::Token, &mut advance).await?.token()?;
    Ok(began.elapsed().as_secs_f64())
}
