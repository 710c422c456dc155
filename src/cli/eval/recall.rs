//! `asynctls eval recall`.

use super::super::Outcome;
use super::super::line::Line;
use super::super::model::{Model, Room};
use super::super::model_option::ModelOption;
use super::grid::{Grid, GridOptions};
use super::methods::MethodOptions;
use super::results::{ResultOptions, Settings};
use asynctls::engine::Engine;
use asynctls::eval::Method;
use asynctls::eval::observed::{HeadSeries, Observed, Run, observe, work};
use asynctls::eval::plot::{HeatMap, Panel, heat_map};
use asynctls::eval::stats::{mean, quantile};
use asynctls::eval::store::Store;
use asynctls::eval::table::{Cell, Table};
use asynctls::{Error, Result};
use clap::Args;
use serde::Serialize;
use std::path::Path;
use std::process::ExitCode;

/// Options of `asynctls eval recall`.
#[derive(Args, Debug)]
pub struct Options {
    #[command(flatten)]
    model: ModelOption,
    /// Decode steps to observe after each prompt
    #[arg(long, value_name = "N", default_value_t = 8, allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(1..=100_000))]
    steps: u32,
    #[command(flatten)]
    grid: GridOptions,
    #[command(flatten)]
    methods: MethodOptions,
    #[command(flatten)]
    results: ResultOptions,
}

#[derive(Serialize)]
struct Own<T: Serialize> {
    steps: u32,
    #[serde(flatten)]
    grid: T,
}

/// One method, over all prompts, steps, layers and query heads.
#[derive(Debug, Serialize)]
struct Row {
    method: String,
    /// Attention mass attended, in the mean.
    recall: Option<f64>,
    /// The oracle's at the same budget.
    oracle_recall: Option<f64>,
    /// Mean of recall / oracle's recall, and its fifth percentile.
    share_of_oracle: Option<f64>,
    share_of_oracle_p5: Option<f64>,
    /// Mass that level 1 lost against the oracle's blocks, and level 2 within the blocks.
    level1_loss: Option<f64>,
    level2_loss: Option<f64>,
    /// Relative error of attention's output: mean, and 95th percentile.
    output_error: Option<f64>,
    output_error_p95: Option<f64>,
    /// Share of blocks that stay chosen from step to step, and of new blocks that rank in the lower half.
    overlap: Option<f64>,
    churn_at_cut_off: Option<f64>,
    /// The same of the heads that carry needles.
    needle_heads_share_of_oracle: Option<f64>,
    needle_heads_share_of_oracle_p5: Option<f64>,
}

/// A head that attends needles.
#[derive(Debug, Serialize)]
struct NeedleHead {
    layer: usize,
    head: usize,
    /// Dense attention's mass on the needles, in the mean over steps.
    needle_mass: f64,
}

#[derive(Serialize)]
struct Report<'a, S: Serialize> {
    settings: &'a S,
    results: &'a [Row],
    needle_heads: &'a [NeedleHead],
    heads: Vec<HeadRow>,
}

#[derive(Serialize)]
struct HeadRow {
    method: String,
    layer: usize,
    head: usize,
    recall: Option<f64>,
    share_of_oracle: Option<f64>,
    share_of_oracle_p5: Option<f64>,
    output_error: Option<f64>,
    needle_mass: Option<f64>,
}

/// Runs it.
pub fn run(options: &Options, line: &Line) -> Outcome<ExitCode> {
    let model = Model::open(&options.model)?;
    let methods = options.methods.selections(&model.config)?;
    let (grid, own) = options.grid.grid(&model, options.results.seed)?;
    let own = Own { steps: options.steps, grid: own };
    let context = grid.longest() + options.steps;
    model.check_length("--lengths and --steps together", context)?;
    let room = Room { context, what: "--lengths", sessions: 2, own: options.steps + 1 };
    let engine = model.load(line, &room, |engine| options.methods.set_up(&methods, engine))?;
    let settings = Settings::new(
        "recall",
        options.model.name(),
        &engine,
        &methods,
        options.results.seed,
        &own,
    );
    let mut store = options.results.store(&settings)?;
    let finished = grid.each("observing", &mut store, |sample, progress| {
        let run = Run {
            needles: sample.needles.iter().cloned().flatten().collect(),
            prompt: sample.tokens,
            forced: Vec::new(),
            steps: options.steps,
        };
        let total = work(&run, methods.len());
        let mut progress = |done| progress(done, total);
        pollster::block_on(observe(&engine, &run, &methods, &mut progress))
    })?;
    if finished < grid.places.len() {
        return Ok(options.results.interrupted(finished, grid.places.len()));
    }
    let heads = Heads::read(&engine, &grid, &methods, &store)?;
    let needle_heads = heads.carriers();
    let rows: Vec<Row> = (0..methods.len()).map(|i| heads.row(i, &needle_heads)).collect();
    let per_head = heads.rows();
    if let Some(path) = &options.results.csv {
        head_table(&per_head)?.write_csv(path)?;
    }
    if let Some(path) = &options.results.plot {
        plot(path, &engine, &methods, &per_head)?;
    }
    let named: Vec<String> = needle_heads
        .iter()
        .map(|head| {
            format!("layer {} head {} ({:.0}%)", head.layer, head.head, head.needle_mass * 100.0)
        })
        .collect();
    let title = format!(
        "Attention-mass recall: {} on {}, {} prompts of {} steps\nheads that carry needles: {}",
        settings.model,
        settings.adapter,
        grid.places.len(),
        options.steps,
        if named.is_empty() { "none".into() } else { named.join(", ") }
    );
    let report = Report {
        settings: &settings,
        results: &rows,
        needle_heads: &needle_heads,
        heads: per_head,
    };
    options.results.show("eval recall", &report, &title, &table(&rows)?)?;
    Ok(ExitCode::SUCCESS)
}

// Every head's values of all prompts and steps: method, layer, query head; and of blocks: method.
struct Heads<'a> {
    methods: &'a [Method],
    series: Vec<Vec<Vec<HeadSeries>>>,
    overlap: Vec<Vec<f64>>,
    at_cut_off: Vec<Vec<f64>>,
}

fn wide(values: &[f32]) -> impl Iterator<Item = f64> + '_ {
    values.iter().map(|&v| f64::from(v))
}

fn shares(series: &HeadSeries) -> impl Iterator<Item = f64> + '_ {
    // Both are at least the mass of the sink and the recent window; where even that is nothing, nothing is lost.
    series
        .recall
        .iter()
        .zip(&series.oracle)
        .map(|(recall, oracle)| if *oracle > 0.0 { f64::from(recall / oracle) } else { 1.0 })
}

impl<'a> Heads<'a> {
    fn read(
        engine: &Engine,
        grid: &Grid<'_>,
        methods: &'a [Method],
        store: &Store,
    ) -> Result<Self> {
        let layers = engine.config.layers as usize;
        let q_heads = engine.shape().q_heads() as usize;
        let empty = vec![vec![HeadSeries::default(); q_heads]; layers];
        let mut all = Self {
            methods,
            series: vec![empty; methods.len()],
            overlap: vec![Vec::new(); methods.len()],
            at_cut_off: vec![Vec::new(); methods.len()],
        };
        for place in &grid.places {
            let seen: Vec<Observed> = store.get(&place.key())?.ok_or_else(|| {
                Error::argument("the results", place.key(), "this prompt is not among them")
            })?;
            for (i, observed) in seen.into_iter().enumerate() {
                for blocks in observed.blocks.iter().flatten() {
                    all.overlap[i].extend(wide(&blocks.overlap));
                    all.at_cut_off[i].extend(wide(&blocks.at_cut_off));
                }
                for (to, from) in
                    all.series[i].iter_mut().flatten().zip(observed.heads.iter().flatten())
                {
                    to.recall.extend(&from.recall);
                    to.oracle.extend(&from.oracle);
                    to.oracle_tokens.extend(&from.oracle_tokens);
                    to.error.extend(&from.error);
                    to.needle.extend(&from.needle);
                }
            }
        }
        Ok(all)
    }

    // The eight heads with the most mass on needles, where that is a tenth at least.
    fn carriers(&self) -> Vec<NeedleHead> {
        let mut heads: Vec<NeedleHead> = Vec::new();
        for (layer, series) in self.series.first().into_iter().flatten().enumerate() {
            for (head, series) in series.iter().enumerate() {
                let needle_mass = mean(&wide(&series.needle).collect::<Vec<_>>()).unwrap_or(0.0);
                if needle_mass >= 0.1 {
                    heads.push(NeedleHead { layer, head, needle_mass });
                }
            }
        }
        heads.sort_by(|a, b| b.needle_mass.total_cmp(&a.needle_mass));
        heads.truncate(8);
        heads
    }

    fn row(&self, method: usize, carriers: &[NeedleHead]) -> Row {
        let all = || self.series[method].iter().flatten();
        let of = |pick: fn(&HeadSeries) -> &Vec<f32>| -> Vec<f64> {
            all().flat_map(|series| wide(pick(series))).collect()
        };
        let difference =
            |a: &[f64], b: &[f64]| -> Vec<f64> { a.iter().zip(b).map(|(a, b)| a - b).collect() };
        let (recall, oracle) = (of(|s| &s.recall), of(|s| &s.oracle));
        let oracle_tokens = of(|s| &s.oracle_tokens);
        let share: Vec<f64> = all().flat_map(shares).collect();
        let error = of(|s| &s.error);
        let carried: Vec<f64> = carriers
            .iter()
            .flat_map(|head| shares(&self.series[method][head.layer][head.head]))
            .collect();
        Row {
            method: self.methods[method].name.clone(),
            recall: mean(&recall),
            oracle_recall: mean(&oracle),
            share_of_oracle: mean(&share),
            share_of_oracle_p5: quantile(&share, 0.05),
            level1_loss: mean(&difference(&oracle, &oracle_tokens)),
            level2_loss: mean(&difference(&oracle_tokens, &recall)),
            output_error: mean(&error),
            output_error_p95: quantile(&error, 0.95),
            overlap: mean(&self.overlap[method]),
            churn_at_cut_off: mean(&self.at_cut_off[method]),
            needle_heads_share_of_oracle: mean(&carried),
            needle_heads_share_of_oracle_p5: quantile(&carried, 0.05),
        }
    }

    fn rows(&self) -> Vec<HeadRow> {
        let mut rows = Vec::new();
        for (method, layers) in self.methods.iter().zip(&self.series) {
            for (layer, heads) in layers.iter().enumerate() {
                for (head, series) in heads.iter().enumerate() {
                    let share: Vec<f64> = shares(series).collect();
                    let of = |values: &[f32]| mean(&wide(values).collect::<Vec<_>>());
                    rows.push(HeadRow {
                        method: method.name.clone(),
                        layer,
                        head,
                        recall: of(&series.recall),
                        share_of_oracle: mean(&share),
                        share_of_oracle_p5: quantile(&share, 0.05),
                        output_error: of(&series.error),
                        needle_mass: of(&series.needle),
                    });
                }
            }
        }
        rows
    }
}

fn table(rows: &[Row]) -> Result<Table> {
    let mut table = Table::new([
        "method",
        "recall",
        "oracle",
        "share",
        "p5",
        "level 1 loss",
        "level 2 loss",
        "error",
        "p95",
        "overlap",
        "churn",
        "needle heads",
        "p5",
    ]);
    for row in rows {
        let numbers = [
            row.recall,
            row.oracle_recall,
            row.share_of_oracle,
            row.share_of_oracle_p5,
            row.level1_loss,
            row.level2_loss,
            row.output_error,
            row.output_error_p95,
            row.overlap,
            row.churn_at_cut_off,
            row.needle_heads_share_of_oracle,
            row.needle_heads_share_of_oracle_p5,
        ];
        let cells = numbers.into_iter().map(|number| Cell::number(number, 3));
        table.push(std::iter::once(row.method.as_str().into()).chain(cells).collect())?;
    }
    Ok(table)
}

fn head_table(rows: &[HeadRow]) -> Result<Table> {
    let mut table = Table::new([
        "method",
        "layer",
        "head",
        "recall",
        "share of oracle",
        "p5",
        "output error",
        "needle mass",
    ]);
    for row in rows {
        table.push(vec![
            row.method.as_str().into(),
            Cell::count(row.layer),
            Cell::count(row.head),
            Cell::number(row.recall, 4),
            Cell::number(row.share_of_oracle, 4),
            Cell::number(row.share_of_oracle_p5, 4),
            Cell::number(row.output_error, 4),
            Cell::number(row.needle_mass, 4),
        ])?;
    }
    Ok(table)
}

fn plot(path: &Path, engine: &Engine, methods: &[Method], rows: &[HeadRow]) -> Result<()> {
    let q_heads = engine.shape().q_heads() as usize;
    let panels = methods.iter().map(|method| {
        let values: Vec<Option<f64>> = rows
            .iter()
            .filter(|row| row.method == method.name)
            .map(|row| row.share_of_oracle)
            .collect();
        Panel {
            title: method.name.clone(),
            values: values.chunks(q_heads).map(<[_]>::to_vec).collect(),
        }
    });
    let map = HeatMap {
        title: "Attention mass kept, by layer and query head".into(),
        x_label: "query head".into(),
        y_label: "layer".into(),
        x: (0..q_heads).map(|head| head.to_string()).collect(),
        y: (0..engine.config.layers).map(|layer| layer.to_string()).collect(),
        range: (0.5, 1.0),
        unit: "share of the oracle's recall".into(),
        panels: panels.collect(),
    };
    heat_map(path, &map)
}
