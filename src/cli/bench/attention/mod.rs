//! `asynctls bench attention`: attention of decode steps alone, on cold data.

mod copies;
mod peer;
mod report;
mod samples;
mod shapes;

use super::super::Outcome;
use super::super::cache::parse_size;
use super::super::line::Line;
use super::super::progress::bar;
use super::super::start::Machine;
use super::super::terminal::{print, print_json, size};
use asynctls::attention::{BlockScorer, Blocks, Budget, Shape, TokenScorer, TwoLevel};
use asynctls::gpu::{Gpu, GpuOptions};
use asynctls::operator::{Select, Selector};
use asynctls::{Error, Result};
use clap::Args;
use copies::Copies;
use report::{Row, plot, table};
use samples::Samples;
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;

/// Options of `asynctls bench attention`.
#[derive(Args, Debug)]
pub struct Options {
    /// Shape of a model's attention: qwen3-8b, qwen3-0.6b, qwen3-30b-a3b, glm-4.7-flash, smollm2 or tiny
    #[arg(long, value_name = "NAME", default_value = "smollm2", conflicts_with = "heads")]
    model_shape: String,
    /// A shape in numbers: KV heads, query heads of each, dimensions, such as 8x4x128
    #[arg(long, value_name = "KVxGROUPxDIM")]
    heads: Option<String>,
    /// Tokens of each sequence
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "4096,8192",
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(1..=4_194_240))]
    lengths: Vec<u32>,
    /// Sequences of a batch
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1",
        allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=1024))]
    batches: Vec<u32>,
    /// What selects beside dense: level 1's scorers and after a slash level 2's (codes unless named)
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "codes,codes/none")]
    scorer: Vec<String>,
    /// Blocks that level 1 keeps: a number, or a share of them such as 8%
    #[arg(long, value_name = "N|P%", default_value = "8%", allow_hyphen_values = true)]
    blocks: String,
    /// Tokens that level 2 keeps
    #[arg(long, value_name = "N", default_value_t = 1024, allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(1..))]
    tokens: u32,
    /// Samples of each figure, of which the median and the tenths are told
    #[arg(long, value_name = "N", default_value_t = 12, allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(3..=1000))]
    samples: u32,
    /// Memory for the copies of the KV cache that are read in turn, so that none is in a cache [default: half of what is
    /// free, at most 16 GB]
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory: Option<String>,
    /// Another library on the same machine, in the same run: a command that reads shapes and writes its times, such as
    /// 'python3 benches/peers/attention.py'
    #[arg(long, value_name = "COMMAND")]
    peer: Option<String>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
    /// Write the table into this file
    #[arg(long, value_name = "FILE.csv")]
    csv: Option<PathBuf>,
    /// Draw times against lengths into this file
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

/// What is attended, and what it is called.
#[derive(Clone, Debug)]
pub(super) struct Method {
    name: String,
    /// None attends everything.
    two_level: Option<TwoLevel>,
}

impl Method {
    fn selector(&self) -> Selector {
        self.two_level.map_or(Selector::Dense, |TwoLevel { block_scorer, token_scorer, .. }| {
            Selector::TwoLevel { blocks: block_scorer, tokens: token_scorer }
        })
    }

    fn select(&self) -> Select<'static> {
        self.two_level.map_or(Select::Dense, Select::TwoLevel)
    }
}

#[derive(Serialize)]
struct Report<'a> {
    adapter: &'a str,
    driver: &'a str,
    kernels: &'static str,
    shape: String,
    blocks: String,
    tokens: u32,
    samples: u32,
    /// Bytes a second of a kernel that only reads.
    stream_bytes_per_second: f64,
    results: &'a [Row],
}

/// Runs it.
pub fn run(options: &Options, line: &Line) -> Outcome<ExitCode> {
    let shape = shapes::shape(&options.model_shape, options.heads.as_deref())?;
    let methods = methods(options)?;
    let room = options.memory.as_deref().map(|text| parse_size("--memory", text)).transpose()?;
    let machine =
        Machine::open_with(line.adapter(), GpuOptions { clock: true, ..GpuOptions::default() })?;
    let free = machine.memory.as_ref().map_or(4 << 30, |memory| memory.bytes);
    let room = room.unwrap_or((free / 2).min(16 << 30));
    let gpu = machine.gpu;
    let mut rows = Vec::new();
    let figures = options.lengths.len() * options.batches.len() * methods.len();
    let progress = bar("measuring", figures as u64, false);
    let stream = pollster::block_on(samples::stream(&gpu, room))?;
    for &batch in &options.batches {
        for &length in &options.lengths {
            let many = (batch, length);
            let measured =
                pollster::block_on(measure(&gpu, shape, many, &methods, options.samples, room));
            for (method, outcome) in methods.iter().zip(measured?) {
                rows.push(Row::new(many, method, outcome, stream));
                progress.inc(1);
            }
        }
    }
    drop(progress);
    if let Some(command) = &options.peer {
        peer::compare(command, &shape, &mut rows)?;
    }
    report::compare(&mut rows);
    let title = format!(
        "attention of {} on {}: {} blocks and {} tokens kept; a kernel that only reads gets {}/s",
        shapes::name(&shape),
        gpu.label(),
        options.blocks,
        options.tokens,
        size(stream as u64)
    );
    if let Some(path) = &options.csv {
        table(&rows)?.write_csv(path)?;
    }
    if let Some(path) = &options.plot {
        plot(path, &title, &rows)?;
    }
    if options.json {
        let report = Report {
            adapter: gpu.label(),
            driver: &gpu.info().driver_info,
            kernels: gpu.tier().name,
            shape: shapes::name(&shape),
            blocks: options.blocks.clone(),
            tokens: options.tokens,
            samples: options.samples,
            stream_bytes_per_second: stream,
            results: &rows,
        };
        print_json("bench attention", &report)?;
    } else {
        print(&format!("{title}\n\n{}", table(&rows)?.to_text()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Dense, then what selects.
fn methods(options: &Options) -> Result<Vec<Method>> {
    let mut methods = vec![Method { name: "dense".into(), two_level: None }];
    let budget = Budget {
        blocks: options.blocks.parse::<Blocks>()?,
        tokens: options.tokens,
        sink_blocks: 1,
        recent_blocks: 4,
        dense_below: 0,
    };
    for scorer in &options.scorer {
        let (blocks, tokens) = scorer.split_once('/').unwrap_or((scorer, "codes"));
        let two_level = TwoLevel {
            budget,
            block_scorer: blocks.parse::<BlockScorer>()?,
            token_scorer: tokens.parse::<TokenScorer>()?,
        };
        let name = format!("{blocks}/{tokens}");
        if methods.iter().any(|method| method.name == name) {
            return Err(Error::argument("--scorer", scorer, "it is named twice"));
        }
        methods.push(Method { name, two_level: Some(two_level) });
    }
    Ok(methods)
}

/// A method's samples, or why there are none.
type Measured = std::result::Result<Samples, String>;

/// All methods over the same copies.
async fn measure(
    gpu: &Gpu,
    shape: Shape,
    many: (u32, u32),
    methods: &[Method],
    samples: u32,
    room: u64,
) -> Result<Vec<Measured>> {
    let selectors: Vec<Selector> = methods.iter().map(Method::selector).collect();
    let copies = match Copies::new(gpu, shape, many, &selectors, room).await? {
        Ok(copies) => copies,
        Err(reason) => return Ok(vec![Err(reason); methods.len()]),
    };
    let mut measured = Vec::new();
    for method in methods {
        measured.push(samples::take(gpu, &copies, method, samples).await?);
    }
    Ok(measured)
}
