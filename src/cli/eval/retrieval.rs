//! `asynctls eval retrieval`.

use super::super::Outcome;
use super::super::line::Line;
use super::super::model::{Model, Room};
use super::super::model_option::ModelOption;
use super::grid::{Grid, GridOptions, Place};
use super::methods::MethodOptions;
use super::places::PlaceOptions;
use super::proof::Proof;
use super::results::{ResultOptions, Settings};
use asynctls::Result;
use asynctls::eval::Method;
use asynctls::eval::plot::{HeatMap, Panel, heat_map};
use asynctls::eval::retrieval::{Answer, answers, work};
use asynctls::eval::stats::{Interval, mean, paired_interval};
use asynctls::eval::store::Store;
use asynctls::eval::table::{Cell, Table};
use clap::Args;
use serde::Serialize;
use std::path::Path;
use std::process::ExitCode;

/// Options of `asynctls eval retrieval`.
#[derive(Args, Debug)]
pub struct Options {
    #[command(flatten)]
    model: ModelOption,
    #[command(flatten)]
    grid: GridOptions,
    /// Tokens at a prompt's end that are decode steps, as the answer's are. The first step waits for its choice under every
    /// --timing, so that with more than one the answer's first token lags too
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(1..=100_000))]
    decoded: u32,
    #[command(flatten)]
    methods: MethodOptions,
    #[command(flatten)]
    places: PlaceOptions,
    #[command(flatten)]
    results: ResultOptions,
}

#[derive(Serialize)]
struct Own<T: Serialize> {
    decoded: u32,
    #[serde(flatten)]
    grid: T,
}

/// One task, length and method.
#[derive(Debug, Serialize)]
struct Row {
    task: String,
    length: u32,
    method: String,
    /// Mean share of the references in the answers.
    score: Option<f64>,
    /// Against dense attention on the same prompts.
    difference: Interval,
    samples: usize,
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
    let decoded = options.decoded;
    let (grid, own) = options.grid.grid(&model, options.results.seed)?;
    let own = Own { decoded, grid: own };
    let room = Room {
        context: grid.longest(),
        what: "--lengths",
        sessions: 2,
        own: grid.answer_tokens().saturating_add(decoded),
    };
    let hot_blocks = options.places.hot_blocks;
    let set_up = |engine: &mut _| options.methods.set_up(&methods, engine);
    let mut engines = model.load_engines(line, &room, (&methods, hot_blocks), set_up)?;
    let settings = Settings::of_engines(
        "retrieval",
        options.model.name(),
        &engines,
        &methods,
        options.results.seed,
        &own,
    );
    let mut store = options.results.store(&settings)?;
    let finished = grid.each("asking", &mut store, |sample, progress| {
        let total = work(&sample, decoded, methods.len(), engines.count());
        let mut progress = |done| progress(done, total);
        let tokenizer = &model.tokenizer;
        let made = answers(&mut engines, tokenizer, &sample, decoded, &methods, &mut progress);
        pollster::block_on(made)
    })?;
    if finished < grid.places.len() {
        return Ok(options.results.interrupted(finished, grid.places.len()));
    }
    let all: Vec<(Place, Vec<Answer>)> = read(&grid, &store)?;
    let rows = rows(&grid, &methods, &all, options.results.seed);
    if let Some(path) = &options.results.csv {
        by_depth(&grid, &methods, &all)?.write_csv(path)?;
    }
    if let Some(path) = &options.results.plot {
        plot(path, &grid, &methods, &all)?;
    }
    let title = format!(
        "Retrieval: {} on {}, score in % and its difference to dense (95% interval)",
        settings.model, settings.adapter
    );
    options.results.show(
        "eval retrieval",
        &Report { settings: &settings, results: &rows },
        &title,
        &table(&rows)?,
    )?;
    Ok(ExitCode::SUCCESS)
}

fn read(grid: &Grid<'_>, store: &Store) -> Result<Vec<(Place, Vec<Answer>)>> {
    grid.places
        .iter()
        .map(|place| Ok((*place, store.get(&place.key())?.unwrap_or_default())))
        .collect()
}

// The scores of one method where `is_meant`.
fn scores(
    all: &[(Place, Vec<Answer>)],
    method: usize,
    is_meant: impl Fn(&Place) -> bool,
) -> Vec<f64> {
    all.iter().filter(|(place, _)| is_meant(place)).map(|(_, made)| made[method].score).collect()
}

fn rows(grid: &Grid<'_>, methods: &[Method], all: &[(Place, Vec<Answer>)], seed: u64) -> Vec<Row> {
    let mut rows = Vec::new();
    for &task in &grid.tasks {
        for &length in &grid.lengths {
            let is_meant = |place: &Place| place.task == task && place.length == length;
            let dense = scores(all, 0, is_meant);
            for (i, method) in methods.iter().enumerate() {
                let made = scores(all, i, is_meant);
                let differences: Vec<f64> = made.iter().zip(&dense).map(|(m, d)| m - d).collect();
                let made_there = all.iter().filter(|(place, _)| is_meant(place));
                rows.push(Row {
                    task: task.to_string(),
                    length,
                    method: method.name.clone(),
                    score: mean(&made),
                    difference: paired_interval(&differences, seed),
                    samples: made.len(),
                    proof: Proof::new(method, made_there.map(|(_, made)| &made[i].activity)),
                });
            }
        }
    }
    rows
}

fn table(rows: &[Row]) -> Result<Table> {
    let columns = ["task", "length", "method", "score", "difference", "from", "to", "samples"];
    let mut table = Table::new(columns.into_iter().chain(Proof::COLUMNS));
    let percent = |value: Option<f64>| Cell::number(value.map(|v| v * 100.0), 1);
    for row in rows {
        let names = [
            row.task.as_str().into(),
            Cell::count(row.length as usize),
            row.method.as_str().into(),
        ];
        let difference = &row.difference;
        let figures = [row.score, difference.mean, difference.low, difference.high].map(percent);
        let figures = row.proof.figures(figures.to_vec());
        let samples = std::iter::once(Cell::count(row.samples));
        let cells = names.into_iter().chain(figures).chain(samples).chain(row.proof.cells());
        table.push(cells.collect())?;
    }
    Ok(table)
}

fn by_depth(grid: &Grid<'_>, methods: &[Method], all: &[(Place, Vec<Answer>)]) -> Result<Table> {
    let mut table = Table::new(["task", "length", "depth", "method", "score", "samples"]);
    for &task in &grid.tasks {
        for &length in &grid.lengths {
            for depth in grid.depths_of(task) {
                for (i, method) in methods.iter().enumerate() {
                    let made = scores(all, i, |place| {
                        place.task == task && place.length == length && place.depth == depth
                    });
                    table.push(vec![
                        task.to_string().into(),
                        Cell::count(length as usize),
                        Cell::number(depth, 3),
                        method.name.as_str().into(),
                        Cell::number(mean(&made), 4),
                        Cell::count(made.len()),
                    ])?;
                }
            }
        }
    }
    Ok(table)
}

fn plot(
    path: &Path,
    grid: &Grid<'_>,
    methods: &[Method],
    all: &[(Place, Vec<Answer>)],
) -> Result<()> {
    let mut panels = Vec::new();
    for &task in &grid.tasks {
        for (i, method) in methods.iter().enumerate() {
            let values = grid.depths.iter().map(|&depth| {
                let cell = |&length: &u32| {
                    let made = scores(all, i, |place| {
                        place.task == task
                            && place.length == length
                            // One score for every depth where the task has none.
                            && place.depth.is_none_or(|at| at == depth)
                    });
                    mean(&made).map(|score| score * 100.0)
                };
                grid.lengths.iter().map(cell).collect()
            });
            let title = if grid.tasks.len() == 1 {
                method.name.clone()
            } else {
                format!("{task}: {}", method.name)
            };
            panels.push(Panel { title, values: values.collect() });
        }
    }
    let map = HeatMap {
        title: "Retrieval by length and depth".into(),
        x_label: "tokens".into(),
        y_label: "depth".into(),
        x: grid.lengths.iter().map(u32::to_string).collect(),
        y: grid.depths.iter().map(|depth| format!("{:.0}%", depth * 100.0)).collect(),
        range: (0.0, 100.0),
        unit: "score in %".into(),
        panels,
    };
    heat_map(path, &map)
}
