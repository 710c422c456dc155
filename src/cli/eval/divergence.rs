//! `asynctls eval divergence`.

use super::super::line::Line;
use super::super::model::{Model, Room};
use super::super::model_option::ModelOption;
use super::super::progress::bar;
use super::super::{Outcome, interrupt};
use super::methods::MethodOptions;
use super::perplexity::{BLOCK, increase_percent};
use super::places::PlaceOptions;
use super::proof::Proof;
use super::results::{ResultOptions, Settings};
use super::windows::{Window, windows};
use asynctls::eval::divergence::{Compared, compare, work};
use asynctls::eval::perplexity::perplexity;
use asynctls::eval::plot::{LinePlot, Point, Series, lines};
use asynctls::eval::stats::{Interval, blocks, mean, paired_interval, quantile};
use asynctls::eval::store::Store;
use asynctls::eval::table::{Cell, Table};
use asynctls::eval::{Engines, Method};
use asynctls::{Error, Result};
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Options of `asynctls eval divergence`.
#[derive(Args, Debug)]
pub struct Options {
    #[command(flatten)]
    model: ModelOption,
    /// The texts
    #[arg(long, value_name = "LIST", value_delimiter = ',', required = true)]
    text: Vec<PathBuf>,
    /// Lengths of windows in tokens, those that are scored included
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values = ["4096"],
        allow_negative_numbers = true)]
    lengths: Vec<u32>,
    /// Tokens at the end of a window that are scored, a decode step each
    #[arg(long, value_name = "N", default_value_t = 256, allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    scored: u32,
    /// Windows of each text, spread evenly over it
    #[arg(long, value_name = "N", default_value_t = 4, allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(1..=100_000))]
    windows: u32,
    #[command(flatten)]
    methods: MethodOptions,
    #[command(flatten)]
    places: PlaceOptions,
    #[command(flatten)]
    results: ResultOptions,
}

#[derive(Serialize)]
struct Own {
    texts: Vec<String>,
    lengths: Vec<u32>,
    scored: u32,
    windows: u32,
}

/// One length and method, over all texts and windows.
#[derive(Debug, Serialize)]
struct Row {
    length: u32,
    method: String,
    /// Divergence from dense attention, in nats.
    divergence: Interval,
    divergence_p50: Option<f64>,
    divergence_p95: Option<f64>,
    divergence_p99: Option<f64>,
    divergence_max: Option<f64>,
    /// Share of tokens of which the likeliest is dense attention's.
    agreement: Interval,
    perplexity: f64,
    /// Against dense attention, in percent.
    increase_percent: Interval,
    scored_tokens: usize,
    #[serde(flatten)]
    proof: Proof,
}

#[derive(Serialize)]
struct Report<'a, S: Serialize> {
    settings: &'a S,
    results: &'a [Row],
}

/// Runs it.
pub fn run(options: &Options, line: &Line) -> Outcome<ExitCode> {
    let model = Model::open(&options.model)?;
    let methods = options.places.spread(options.methods.all(&model.config)?)?;
    for &length in &options.lengths {
        model.check_length("--lengths", length)?;
        if length < options.scored.saturating_add(2) {
            let limit = format!("each of --lengths must be 2 more, and one is {length}");
            return Err(Error::argument("--scored", options.scored, limit).into());
        }
    }
    let count = (options.windows, options.scored);
    let windows = windows(&model, &options.text, &options.lengths, count)?;
    let room = Room {
        context: options.lengths.iter().copied().max().unwrap_or(0),
        what: "--lengths",
        sessions: 2,
        own: options.scored + 1,
    };
    let hot_blocks = options.places.hot_blocks;
    let set_up = |engine: &mut _| options.methods.set_up(&methods, engine);
    let mut engines = model.load_engines(line, &room, (&methods, hot_blocks), set_up)?;
    let own = Own {
        texts: options.text.iter().map(|path| path.display().to_string()).collect(),
        lengths: options.lengths.clone(),
        scored: options.scored,
        windows: options.windows,
    };
    let settings = Settings::of_engines(
        "divergence",
        options.model.name(),
        &engines,
        &methods,
        options.results.seed,
        &own,
    );
    let title = format!(
        "Divergence from dense in nats, likeliest tokens that agree in %, increase of perplexity in % (95% intervals): {} on \
         {}, the last {} tokens of {} windows",
        settings.model,
        settings.adapter,
        options.scored,
        windows.len()
    );
    let mut store = options.results.store(&settings)?;
    let finished = score(&mut engines, &windows, options.scored, &methods, &mut store)?;
    if finished < windows.len() {
        return Ok(options.results.interrupted(finished, windows.len()));
    }
    let all: Vec<(&Window, Vec<Compared>)> = windows
        .iter()
        .map(|window| Ok((window, store.get(&window.key)?.unwrap_or_default())))
        .collect::<Result<_>>()?;
    let rows = rows(&options.lengths, &methods, &all, options.results.seed);
    if let Some(path) = &options.results.csv {
        per_token(&own, &methods, &all)?.write_csv(path)?;
    }
    if let Some(path) = &options.results.plot {
        plot(path, &methods, &rows)?;
    }
    let report = Report { settings: &settings, results: &rows };
    options.results.show("eval divergence", &report, &title, &table(&rows)?)?;
    Ok(ExitCode::SUCCESS)
}

// Scores what is not scored yet; how many windows are.
fn score(
    engines: &mut Engines,
    windows: &[Window],
    scored: u32,
    methods: &[Method],
    store: &mut Store,
) -> Result<usize> {
    let _keeping = interrupt::Keeping::new();
    let prefill = |window: &Window| window.tokens.len() - scored as usize;
    let count = engines.count();
    let of = |window: &Window| work(window.tokens.len(), prefill(window), methods.len(), count);
    let bar = bar("comparing", windows.iter().map(of).sum(), false);
    let mut before = 0;
    for (i, window) in windows.iter().enumerate() {
        if store.get::<Vec<Compared>>(&window.key)?.is_none() {
            let mut progress = |done: u64| {
                bar.set_position(before + done);
                !interrupt::asked()
            };
            let made = compare(engines, &window.tokens, prefill(window), methods, &mut progress);
            let Some(made) = pollster::block_on(made)? else {
                drop(bar);
                return Ok(i);
            };
            store.put(&window.key, &made)?;
        }
        before += of(window);
        bar.set_position(before);
    }
    drop(bar);
    Ok(windows.len())
}

fn rows(
    lengths: &[u32],
    methods: &[Method],
    all: &[(&Window, Vec<Compared>)],
    seed: u64,
) -> Vec<Row> {
    let mut rows = Vec::new();
    for &length in lengths {
        let windows: Vec<&Vec<Compared>> = all
            .iter()
            .filter(|(window, _)| window.length == length)
            .map(|(_, made)| made)
            .collect();
        for (number, method) in methods.iter().enumerate() {
            // The values of each window.
            let each = |of: &dyn Fn(&[Compared]) -> Vec<f64>| -> Vec<Vec<f64>> {
                windows.iter().map(|made| of(made)).collect()
            };
            let divergences = each(&|made| made[number].divergences.clone());
            let agrees = each(&|made| {
                made[number].agrees.iter().map(|&agrees| f64::from(u8::from(agrees))).collect()
            });
            let losses = each(&|made| made[number].losses.clone()).concat();
            let increases = each(&|made| {
                made[number].losses.iter().zip(&made[0].losses).map(|(a, b)| a - b).collect()
            });
            let flat = divergences.concat();
            rows.push(Row {
                length,
                method: method.name.clone(),
                divergence: interval(&divergences, seed),
                divergence_p50: quantile(&flat, 0.5),
                divergence_p95: quantile(&flat, 0.95),
                divergence_p99: quantile(&flat, 0.99),
                divergence_max: quantile(&flat, 1.0),
                agreement: interval(&agrees, seed),
                perplexity: perplexity(&losses),
                increase_percent: increase_percent(interval(&increases, seed)),
                scored_tokens: flat.len(),
                proof: Proof::new(method, windows.iter().map(|made| &made[number].activity)),
            });
        }
    }
    rows
}

// The mean of all values, with the interval of means over blocks, none of which spans two windows.
fn interval(windows: &[Vec<f64>], seed: u64) -> Interval {
    let means: Vec<f64> =
        windows.iter().flat_map(|values| blocks(values, BLOCK.min(values.len()))).collect();
    Interval { mean: mean(&windows.concat()), ..paired_interval(&means, seed) }
}

fn table(rows: &[Row]) -> Result<Table> {
    let figures = [
        "divergence",
        "from",
        "to",
        "p50",
        "p95",
        "p99",
        "max",
        "agree",
        "from",
        "to",
        "perplexity",
        "increase",
        "from",
        "to",
    ];
    let columns = ["length", "method"].into_iter().chain(figures).chain(Proof::COLUMNS);
    let mut table = Table::new(columns);
    let percent = |value: Option<f64>| Cell::number(value.map(|v| v * 100.0), 2);
    for row in rows {
        let figures = vec![
            Cell::number(row.divergence.mean, 6),
            Cell::number(row.divergence.low, 6),
            Cell::number(row.divergence.high, 6),
            Cell::number(row.divergence_p50, 6),
            Cell::number(row.divergence_p95, 5),
            Cell::number(row.divergence_p99, 5),
            Cell::number(row.divergence_max, 4),
            percent(row.agreement.mean),
            percent(row.agreement.low),
            percent(row.agreement.high),
            Cell::number(row.perplexity, 4),
            Cell::number(row.increase_percent.mean, 3),
            Cell::number(row.increase_percent.low, 3),
            Cell::number(row.increase_percent.high, 3),
        ];
        let names = [Cell::count(row.length as usize), row.method.as_str().into()];
        let figures = row.proof.figures(figures);
        table.push(names.into_iter().chain(figures).chain(row.proof.cells()).collect())?;
    }
    Ok(table)
}

fn per_token(own: &Own, methods: &[Method], all: &[(&Window, Vec<Compared>)]) -> Result<Table> {
    let columns = ["text", "length", "position", "token", "method", "divergence", "agrees", "loss"];
    let mut table = Table::new(columns);
    for (window, made) in all {
        let first = window.tokens.len() - own.scored as usize;
        for (method, one) in methods.iter().zip(made) {
            for (i, (divergence, loss)) in one.divergences.iter().zip(&one.losses).enumerate() {
                table.push(vec![
                    own.texts[window.text].as_str().into(),
                    Cell::count(window.length as usize),
                    Cell::count(window.from + first + i),
                    Cell::count(window.tokens[first + i] as usize),
                    method.name.as_str().into(),
                    Cell::number(*divergence, 6),
                    Cell::count(usize::from(one.agrees[i])),
                    Cell::number(*loss, 4),
                ])?;
            }
        }
    }
    Ok(table)
}

// How the divergence grows with the length.
fn plot(path: &Path, methods: &[Method], rows: &[Row]) -> Result<()> {
    let series = methods.iter().skip(1).map(|method| {
        let own = rows.iter().filter(|row| row.method == method.name);
        let point = |row: &Row| {
            let Interval { mean, low, high, .. } = row.divergence;
            Some(Point { x: f64::from(row.length), y: mean?, error: low.zip(high) })
        };
        Series { name: method.name.clone(), points: own.filter_map(point).collect() }
    });
    let plot = LinePlot {
        title: "Divergence from dense attention".into(),
        x_label: "tokens".into(),
        y_label: "divergence in nats".into(),
        is_log_x: true,
        series: series.collect(),
    };
    lines(path, &plot)
}
