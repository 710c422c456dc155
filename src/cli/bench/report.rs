//! The findings of a replay: rows, as a table, as JSON and as a picture.

use super::measure::{Measured, Rule};
use super::offload::percent;
use asynctls::Result;
use asynctls::engine::Engine;
use asynctls::eval::plot::{Bar, BarPlot};
use asynctls::eval::table::{Cell, Table};
use serde::Serialize;

/// One row.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Type of the weights.
    pub weights: String,
    /// Share of the chosen blocks that is new from step to step; none for a trace.
    pub asked_misses: Option<f64>,
    /// Where the KV cache is, and when what is chosen of it comes.
    pub rule: Rule,
    /// Median time of a step.
    pub step_ms: f64,
    /// Mean time of a step.
    pub mean_step_ms: f64,
    /// The median as a multiple of that with everything on the GPU.
    pub ratio: Option<f64>,
    /// Share of the wanted head-blocks that were not on the GPU.
    pub miss_rate: Option<f64>,
    /// Bytes that came from the host in a step.
    pub bytes_a_step: Option<f64>,
    /// Rate at which blocks were gathered into mapped slots.
    pub gather_bytes_per_second: Option<f64>,
    /// Share of the time of gathering in which the GPU worked.
    pub hidden: Option<f64>,
    /// Time of a step's kernels of layers and logits, by the GPU's clock.
    pub kernels_ms: Option<f64>,
    /// How much longer they take than by the same rule when nothing is missing.
    pub slowdown: Option<f64>,
    /// Bytes of KV cache and index on the GPU, with all that carries them.
    pub kv_gpu_bytes: u64,
    /// Bytes of KV cache in CPU memory.
    pub kv_host_bytes: u64,
    /// Whether the last step attended tokens of the blocks that it was to attend, and no others.
    pub faithful: bool,
    /// Tokens that the timed steps gave.
    #[serde(skip)]
    pub tokens: Vec<u32>,
    /// Of those, as many as are those with everything on the GPU, where they must be.
    pub same_tokens: Option<usize>,
    /// Timed steps.
    pub steps: usize,
}

impl Row {
    /// The row of a measurement.
    pub fn new(
        (weights, misses, rule): (&str, Option<f64>, Rule),
        measured: &Measured,
        engine: &Engine,
    ) -> Self {
        let mut sorted = measured.seconds.clone();
        sorted.sort_by(f64::total_cmp);
        let steps = sorted.len();
        let moved = measured.moved.as_ref();
        let traced = measured.traced.as_ref();
        let gathered = traced.filter(|traced| traced.gathering > 0.0 && traced.bytes > 0.0);
        Self {
            weights: weights.to_owned(),
            asked_misses: misses,
            rule,
            step_ms: sorted[steps / 2] * 1e3,
            mean_step_ms: sorted.iter().sum::<f64>() / steps as f64 * 1e3,
            ratio: None,
            miss_rate: moved
                .filter(|moved| moved.hits + moved.misses > 0)
                .map(|moved| moved.misses as f64 / (moved.hits + moved.misses) as f64),
            bytes_a_step: moved.map(|moved| moved.bytes_up as f64 / steps as f64),
            gather_bytes_per_second: gathered.map(|traced| traced.bytes / traced.gathering),
            hidden: gathered.map(|traced| traced.hidden / traced.gathering),
            kernels_ms: traced.map(|traced| traced.kernels * 1e3),
            slowdown: None,
            kv_gpu_bytes: engine.kv_gpu_bytes(),
            kv_host_bytes: moved.map_or(0, |moved| moved.host_bytes),
            faithful: measured.is_faithful,
            tokens: measured.tokens.clone(),
            same_tokens: None,
            steps,
        }
    }

    fn name(&self) -> String {
        match self.asked_misses {
            Some(misses) => {
                format!("{}, {} new: {}", self.weights, percent(misses), self.rule.name())
            }
            None => format!("{}: {}", self.weights, self.rule.name()),
        }
    }
}

/// Sets rows against those of the same weights with everything on the GPU, and with nothing missing.
pub fn compare(rows: &mut [Row]) {
    let all = rows.to_vec();
    for row in rows {
        let same = || all.iter().filter(|other| other.weights == row.weights);
        let like = |other: &&Row| other.asked_misses == row.asked_misses;
        // With everything on the GPU what is new costs nothing: any row will do.
        let on_gpu = || same().filter(|other| other.rule == Rule::Gpu);
        row.ratio = on_gpu().find(like).or(on_gpu().next()).map(|r| row.step_ms / r.step_ms);
        let quiet = same().find(|other| other.rule == row.rule && other.asked_misses == Some(0.0));
        row.slowdown = quiet
            .filter(|quiet| row.asked_misses != quiet.asked_misses)
            .and_then(|quiet| Some(row.kernels_ms? / quiet.kernels_ms? - 1.0));
        if row.rule == Rule::Exact {
            row.same_tokens = on_gpu().find(like).map(|on_gpu| {
                row.tokens.iter().zip(&on_gpu.tokens).filter(|(a, b)| a == b).count()
            });
        }
    }
}

/// The table for people.
pub fn table(rows: &[Row]) -> Result<Table> {
    let mut table = Table::new([
        "weights",
        "new",
        "rule",
        "step ms",
        "x gpu",
        "missed %",
        "MB a step",
        "gather GB/s",
        "hidden %",
        "kernels ms",
        "slowed %",
        "KV on GPU, GiB",
        "faithful",
    ]);
    for row in rows {
        let scaled = |value: Option<f64>, factor: f64| value.map(|value| value * factor);
        let faithful = match (row.faithful, row.same_tokens) {
            (false, _) => "NO".into(),
            (true, None) => "yes".into(),
            (true, Some(same)) => format!("yes; {same} of {} tokens as gpu", row.steps),
        };
        table.push(vec![
            row.weights.as_str().into(),
            row.asked_misses.map_or(Cell::Empty, |misses| percent(misses).into()),
            row.rule.name().into(),
            Cell::number(row.step_ms, 2),
            Cell::number(row.ratio, 2),
            Cell::number(scaled(row.miss_rate, 1e2), 1),
            Cell::number(scaled(row.bytes_a_step, 1e-6), 1),
            Cell::number(scaled(row.gather_bytes_per_second, 1e-9), 1),
            Cell::number(scaled(row.hidden, 1e2), 0),
            Cell::number(row.kernels_ms, 2),
            Cell::number(scaled(row.slowdown, 1e2), 1),
            Cell::number(row.kv_gpu_bytes as f64 / f64::from(1 << 30), 2),
            faithful.into(),
        ])?;
    }
    Ok(table)
}

/// The picture of all steps.
pub fn plot(title: &str, rows: &[Row]) -> BarPlot {
    let bar = |row: &Row| Bar {
        name: row.name(),
        value: row.step_ms,
        colour: row.rule as usize,
        note: row.ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}x")),
    };
    BarPlot {
        title: title.to_owned(),
        x_label: "median time of a step, ms".into(),
        bars: rows.iter().map(bar).collect(),
    }
}
