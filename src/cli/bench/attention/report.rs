//! The findings: rows, as a table, as JSON and as a picture.

use super::{Measured, Method};
use asynctls::Result;
use asynctls::eval::plot::{LinePlot, Point, Series, lines};
use asynctls::eval::table::{Cell, Table};
use serde::Serialize;
use std::path::Path;

/// One row: a method at a batch and a length.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Row {
    /// Sequences.
    pub(super) batch: u32,
    /// Tokens of each.
    pub(super) length: u32,
    /// `dense`, or the scorers of both levels.
    pub(super) method: String,
    /// Microseconds of a call: the median.
    median_us: Option<f64>,
    /// A tenth of the samples is below.
    p10_us: Option<f64>,
    /// A tenth is above.
    p90_us: Option<f64>,
    /// Bytes that a call has to read.
    bytes: Option<u64>,
    bytes_per_second: Option<f64>,
    /// Of what a kernel gets that only reads.
    share_of_stream: Option<f64>,
    /// Copies of the data that calls went over in turn.
    copies: Option<usize>,
    /// Whether nothing was still in a cache when it was read.
    cold: Option<bool>,
    /// The median of dense attention as a multiple of this one.
    speedup_over_dense: Option<f64>,
    /// The other library's fastest kernel.
    pub(super) peer: Option<String>,
    /// Its median.
    pub(super) peer_us: Option<f64>,
    /// Its median as a multiple of this one.
    speedup_over_peer: Option<f64>,
    /// Why there is no figure.
    skipped: Option<String>,
}

impl Row {
    pub(super) fn new(
        (batch, length): (u32, u32),
        method: &Method,
        measured: Measured,
        stream: f64,
    ) -> Self {
        let row = Self { batch, length, method: method.name.clone(), ..Self::default() };
        match measured {
            Err(reason) => Self { skipped: Some(reason), ..row },
            Ok(samples) => {
                let seconds = &samples.seconds;
                let at =
                    |share: f64| seconds[((seconds.len() - 1) as f64 * share).round() as usize];
                let rate = samples.bytes as f64 / at(0.5);
                Self {
                    median_us: Some(at(0.5) * 1e6),
                    p10_us: Some(at(0.1) * 1e6),
                    p90_us: Some(at(0.9) * 1e6),
                    bytes: Some(samples.bytes),
                    bytes_per_second: Some(rate),
                    share_of_stream: Some(rate / stream),
                    copies: Some(samples.copies),
                    cold: Some(samples.is_cold),
                    ..row
                }
            }
        }
    }
}

/// Sets rows against dense attention of the same case, and against the peer.
pub(super) fn compare(rows: &mut [Row]) {
    let all = rows.to_vec();
    for row in rows {
        let Some(own) = row.median_us else { continue };
        let is_dense = |other: &&Row| {
            other.method == "dense" && (other.batch, other.length) == (row.batch, row.length)
        };
        let dense = all.iter().find(is_dense).and_then(|dense| dense.median_us);
        row.speedup_over_dense = dense.map(|dense| dense / own);
        row.speedup_over_peer = row.peer_us.map(|peer| peer / own);
    }
}

/// The table for people.
pub(super) fn table(rows: &[Row]) -> Result<Table> {
    let mut table = Table::new([
        "batch",
        "tokens",
        "method",
        "us",
        "p10",
        "p90",
        "MB",
        "GB/s",
        "% of stream",
        "copies",
        "cold",
        "x dense",
        "peer",
        "peer us",
        "x peer",
    ]);
    for row in rows {
        let scaled = |value: Option<f64>, factor: f64| value.map(|value| value * factor);
        let method = match &row.skipped {
            Some(reason) => format!("{}: skipped, {reason}", row.method),
            None => row.method.clone(),
        };
        let cold = row.cold.map_or(Cell::Empty, |cold| if cold { "yes" } else { "NO" }.into());
        table.push(vec![
            Cell::count(row.batch as usize),
            Cell::count(row.length as usize),
            method.into(),
            Cell::number(row.median_us, 1),
            Cell::number(row.p10_us, 1),
            Cell::number(row.p90_us, 1),
            Cell::number(row.bytes.map(|bytes| bytes as f64 / 1e6), 1),
            Cell::number(scaled(row.bytes_per_second, 1e-9), 1),
            Cell::number(scaled(row.share_of_stream, 1e2), 0),
            row.copies.map_or(Cell::Empty, Cell::count),
            cold,
            Cell::number(row.speedup_over_dense, 2),
            row.peer.as_deref().map_or(Cell::Empty, Into::into),
            Cell::number(row.peer_us, 1),
            Cell::number(row.speedup_over_peer, 2),
        ])?;
    }
    Ok(table)
}

/// Times against lengths, a line a method and batch.
pub(super) fn plot(path: &Path, title: &str, rows: &[Row]) -> Result<()> {
    let mut series: Vec<Series> = Vec::new();
    let mut add = |name: String, length: u32, us: Option<f64>, error: Option<(f64, f64)>| {
        let Some(us) = us else { return };
        let point = Point { x: f64::from(length), y: us, error };
        match series.iter_mut().find(|series| series.name == name) {
            Some(series) if series.points.last().is_some_and(|last| last.x == point.x) => {}
            Some(series) => series.points.push(point),
            None => series.push(Series { name, points: vec![point] }),
        }
    };
    for row in rows {
        let Row { batch, length, method, .. } = row;
        let error = row.p10_us.zip(row.p90_us);
        add(format!("{method}, batch {batch}"), *length, row.median_us, error);
        if let Some(peer) = &row.peer {
            add(format!("{peer}, batch {batch}"), *length, row.peer_us, None);
        }
    }
    let plot = LinePlot {
        title: title.into(),
        x_label: "tokens".into(),
        y_label: "microseconds".into(),
        is_log_x: true,
        series,
    };
    lines(path, &plot)
}
