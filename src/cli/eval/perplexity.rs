//! `asynctls eval perplexity`.

use super::super::line::Line;
use super::super::model::{Model, Room};
use super::super::model_option::ModelOption;
use super::super::progress::bar;
use super::super::{Outcome, interrupt};
use super::methods::MethodOptions;
use super::places::PlaceOptions;
use super::proof::Proof;
use super::results::{ResultOptions, Settings};
use asynctls::eval::perplexity::{Scored, losses, perplexity, work};
use asynctls::eval::plot::{LinePlot, Point, Series, lines};
use asynctls::eval::stats::{Interval, blocks, mean, paired_interval};
use asynctls::eval::store::Store;
use asynctls::eval::table::{Cell, Table};
use asynctls::eval::{Activity, Engines, Method};
use asynctls::{Error, Result};
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Losses of neighbouring tokens depend on each other; means over this many hardly do.
pub(super) const BLOCK: usize = 64;

/// Options of `asynctls eval perplexity`.
#[derive(Args, Debug)]
pub struct Options {
    #[command(flatten)]
    model: ModelOption,
    /// The text
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Tokens of a window
    #[arg(long, value_name = "N", default_value_t = 4096, allow_negative_numbers = true)]
    length: u32,
    /// Tokens of a window that are not scored, but prefilled [default: half of them]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    prefill: Option<u32>,
    /// Windows, one after the other from the beginning of the text
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true,
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
    text: String,
    tokens: usize,
    length: u32,
    prefill: u32,
    windows: u32,
}

#[derive(Debug, Serialize)]
struct Row {
    method: String,
    perplexity: f64,
    /// Against dense attention, in percent, with its 95% interval.
    increase_percent: Interval,
    #[serde(flatten)]
    proof: Proof,
}

#[derive(Serialize)]
struct Report<'a, S: Serialize> {
    /// Of the first selection, or of dense attention where that is alone.
    perplexity: f64,
    dense_perplexity: f64,
    scored_tokens: usize,
    settings: &'a S,
    results: &'a [Row],
}

/// Runs it.
pub fn run(options: &Options, line: &Line) -> Outcome<ExitCode> {
    let model = Model::open(&options.model)?;
    let methods = options.places.spread(options.methods.all(&model.config)?)?;
    model.check_length("--length", options.length)?;
    let prefill = options.prefill.unwrap_or(options.length / 2);
    if prefill < 2 || prefill >= options.length {
        let limit =
            format!("it must be at least 2 and below --length, which is {}", options.length);
        return Err(Error::argument("--prefill", prefill, limit).into());
    }
    let scored = u64::from(options.length - prefill) * u64::from(options.windows);
    if let Some(path) = &options.results.plot
        && (methods.len() == 1 || scored < BLOCK as u64)
    {
        let limit =
            format!("it needs a selection beside dense attention, and {BLOCK} tokens to score");
        return Err(Error::argument("--plot", path.display(), limit).into());
    }
    let needed = options.length as usize * options.windows as usize;
    let tokens = model.text_tokens(&options.text, needed)?;
    let room = Room {
        context: options.length,
        what: "--length",
        sessions: 2,
        own: options.length - prefill + 1,
    };
    let hot_blocks = options.places.hot_blocks;
    let set_up = |engine: &mut _| options.methods.set_up(&methods, engine);
    let mut engines = model.load_engines(line, &room, (&methods, hot_blocks), set_up)?;
    let own = Own {
        text: options.text.display().to_string(),
        tokens: tokens.len(),
        length: options.length,
        prefill,
        windows: options.windows,
    };
    let settings = Settings::of_engines(
        "perplexity",
        options.model.name(),
        &engines,
        &methods,
        options.results.seed,
        &own,
    );
    let mut store = options.results.store(&settings)?;
    let windows: Vec<&[u32]> =
        tokens.chunks_exact(options.length as usize).take(options.windows as usize).collect();
    let finished = score(&mut engines, &windows, prefill as usize, &methods, &mut store)?;
    if finished < windows.len() {
        return Ok(options.results.interrupted(finished, windows.len()));
    }
    let mut all: Vec<Vec<f64>> = vec![Vec::new(); methods.len()];
    let mut activities = vec![Activity::default(); methods.len()];
    for window in 0..windows.len() {
        let made: Vec<Scored> = store.get(&key(window))?.unwrap_or_default();
        for (number, scored) in made.into_iter().enumerate() {
            all[number].extend(scored.losses);
            activities[number].add(&scored.activity);
        }
    }
    let rows = rows(&methods, (&all, &activities), options.results.seed);
    let table = table(&rows)?;
    if let Some(path) = &options.results.csv {
        per_token(&methods, &all, &windows, prefill as usize)?.write_csv(path)?;
    }
    if let Some(path) = &options.results.plot {
        plot(path, &methods, &all)?;
    }
    let title = format!(
        "Perplexity of {} tokens of {} after {prefill}, {} on {}; increase over dense in % (95% interval)",
        all[0].len(),
        own.text,
        settings.model,
        settings.adapter
    );
    let report = Report {
        perplexity: rows.get(1).unwrap_or(&rows[0]).perplexity,
        dense_perplexity: rows[0].perplexity,
        scored_tokens: all[0].len(),
        settings: &settings,
        results: &rows,
    };
    options.results.show("eval perplexity", &report, &title, &table)?;
    Ok(ExitCode::SUCCESS)
}

fn key(window: usize) -> String {
    format!("window {window}")
}

// Scores what is not scored yet; how many windows are.
fn score(
    engines: &mut Engines,
    windows: &[&[u32]],
    prefill: usize,
    methods: &[Method],
    store: &mut Store,
) -> Result<usize> {
    let _keeping = interrupt::Keeping::new();
    let count = engines.count();
    let a_window = windows.first().map_or(0, |w| work(w.len(), prefill, methods.len(), count));
    let bar = bar("scoring", a_window * windows.len() as u64, false);
    for (i, window) in windows.iter().enumerate() {
        if store.get::<Vec<Scored>>(&key(i))?.is_none() {
            let mut progress = |done: u64| {
                bar.set_position(a_window * i as u64 + done);
                !interrupt::asked()
            };
            let made = losses(engines, window, prefill, methods, &mut progress);
            let Some(made) = pollster::block_on(made)? else {
                drop(bar);
                return Ok(i);
            };
            store.put(&key(i), &made)?;
        }
        bar.set_position(a_window * (i as u64 + 1));
    }
    drop(bar);
    Ok(windows.len())
}

fn rows(methods: &[Method], (all, activities): (&[Vec<f64>], &[Activity]), seed: u64) -> Vec<Row> {
    let row = |((method, losses), activity): ((&Method, &Vec<f64>), &Activity)| {
        let differences: Vec<f64> = losses.iter().zip(&all[0]).map(|(l, d)| l - d).collect();
        // The mean is of all tokens, those of a last block that is not whole included.
        let interval = Interval {
            mean: mean(&differences),
            ..paired_interval(&blocks(&differences, BLOCK), seed)
        };
        Row {
            method: method.name.clone(),
            perplexity: perplexity(losses),
            increase_percent: increase_percent(interval),
            proof: Proof::new(method, std::iter::once(activity)),
        }
    };
    methods.iter().zip(all).zip(activities).map(row).collect()
}

/// By how much a perplexity is higher, from the mean difference of the losses.
pub(super) fn increase_percent(difference: Interval) -> Interval {
    let percent = |value: Option<f64>| value.map(|v| v.exp_m1() * 100.0);
    Interval {
        mean: percent(difference.mean),
        low: percent(difference.low),
        high: percent(difference.high),
        count: difference.count,
    }
}

fn table(rows: &[Row]) -> Result<Table> {
    let columns = ["method", "perplexity", "increase", "from", "to"];
    let mut table = Table::new(columns.into_iter().chain(Proof::COLUMNS));
    for Row { method, perplexity, increase_percent, proof } in rows {
        let figures = proof.figures(vec![
            Cell::number(*perplexity, 4),
            Cell::number(increase_percent.mean, 3),
            Cell::number(increase_percent.low, 3),
            Cell::number(increase_percent.high, 3),
        ]);
        let name = std::iter::once(method.as_str().into());
        table.push(name.chain(figures).chain(proof.cells()).collect())?;
    }
    Ok(table)
}

fn per_token(
    methods: &[Method],
    all: &[Vec<f64>],
    windows: &[&[u32]],
    prefill: usize,
) -> Result<Table> {
    let names = methods.iter().map(|method| format!("loss {}", method.name));
    let columns = ["window", "position", "token"].map(String::from).into_iter().chain(names);
    let mut table = Table::new(columns);
    let scored = all[0].len() / windows.len();
    for i in 0..all[0].len() {
        let (window, position) = (i / scored, prefill + i % scored);
        let place = [window, position, windows[window][position] as usize].map(Cell::count);
        let losses = all.iter().map(|losses| Cell::number(losses[i], 4));
        table.push(place.into_iter().chain(losses).collect())?;
    }
    Ok(table)
}

// How the difference to dense grows along the windows.
fn plot(path: &Path, methods: &[Method], all: &[Vec<f64>]) -> Result<()> {
    let series = methods.iter().zip(all).skip(1).map(|(method, losses)| {
        let mut sum = 0.0;
        let points = losses.iter().zip(&all[0]).enumerate().filter_map(|(i, (loss, dense))| {
            sum += loss - dense;
            let count = i + 1;
            let y = (sum / count as f64).exp_m1() * 100.0;
            count.is_multiple_of(BLOCK).then_some(Point { x: count as f64, y, error: None })
        });
        Series { name: method.name.clone(), points: points.collect() }
    });
    let plot = LinePlot {
        title: "Perplexity over dense attention".into(),
        x_label: "tokens scored".into(),
        y_label: "increase in %".into(),
        is_log_x: false,
        series: series.collect(),
    };
    lines(path, &plot)
}
